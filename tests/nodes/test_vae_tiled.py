import torch

from diffusion.values import Image, Latent
from nodes.vae import VAEDecode, VAEEncode
from nodes.vae_tiled import VAEDecodeTiled, VAEEncodeTiled, within, within_half


def test_what_fits_into_one_tile_is_the_plain_result(ctx, vae):
    latent = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    plain = VAEDecode(samples=latent, vae=vae).run(ctx).pixels
    torch.testing.assert_close(VAEDecodeTiled(samples=latent, vae=vae).run(ctx).pixels, plain)
    image = Image(plain)
    torch.testing.assert_close(VAEEncodeTiled(pixels=image, vae=vae).run(ctx).x, VAEEncode(pixels=image, vae=vae).run(ctx).x)


def test_tiles_have_the_size_and_about_the_values_of_the_whole(ctx, vae):
    latent = Latent(torch.randn(2, 4, 20, 12, generator=torch.Generator().manual_seed(0)))
    plain = VAEDecode(samples=latent, vae=vae).run(ctx).pixels
    tiles = VAEDecodeTiled(samples=latent, vae=vae, tile_size=64, overlap=32).run(ctx).pixels
    assert tiles.shape == plain.shape == (2, 160, 96, 3)
    assert 0 < (tiles - plain).abs().mean() < plain.std()
    image = Image(plain[:, :155])
    encoded = VAEEncodeTiled(pixels=image, vae=vae, tile_size=64, overlap=0).run(ctx)
    assert encoded.x.shape == (2, 4, 19, 12)
    assert encoded.format == "sd1"


def test_the_overlap_is_at_most_a_quarter_of_the_tile():
    assert within(512, 64) == 64
    assert within(64, 64) == 16


def test_encoding_takes_any_overlap_that_half_a_tile_holds():
    assert [within_half(256, overlap) for overlap in (0, 96, 127, 128, 4096)] == [0, 96, 127, 64, 64]
    assert within_half(64, 64) == 16
