// The graph that a browser without one of its own begins with: the example "text_to_image", in place of the editor's, which names models that nobody has.

const graph = await fetch(new URL("../../templates/text_to_image.json", import.meta.url));
const first = window.comfyAPI?.defaultGraph?.defaultGraph;
if (graph.ok && first) {
  for (const key of Object.keys(first)) delete first[key];
  Object.assign(first, await graph.json());
}
