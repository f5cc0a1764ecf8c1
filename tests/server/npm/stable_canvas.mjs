// Drives a server with the client library as it comes: stable_canvas.mjs HOST FOLDER
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Client } from "@stable-canvas/comfyui-client";
import WebSocket from "ws";

const [host, folder] = process.argv.slice(2);
const client = new Client({ api_host: host, WebSocket, fetch });
await client.connect();
await client.getSystemStats();
const nodes = Object.keys(await client.getNodeDefs()).length;

const prompt = JSON.parse(await readFile(join(folder, "workflows", "text_to_image.json")));
const invoked = await client.enqueue(prompt, {});
const image = invoked.images[0];
const bytes = image.type === "buff" ? image.data : await (await fetch(image.data)).arrayBuffer();
await writeFile(join(folder, "invoked.png"), Buffer.from(bytes));

const polled = await client.enqueue_polling(prompt, {});
let error = null;
try {
  await client.enqueue({ 1: { class_type: "Pixel", inputs: { red: "very" } } }, {});
} catch (refused) {
  error = /prompt_\w+/.exec(JSON.stringify(refused) + String(refused) + String(refused.cause && JSON.stringify(refused.cause)))?.[0] ?? String(refused);
}
client.close();
console.log(JSON.stringify({ nodes, invoked: invoked.images.length, polled: polled.images.length, error }));
process.exit(0);
