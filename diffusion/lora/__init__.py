"""LoRA and its relatives: files of small weight changes, in the key layouts that training programs write."""
