// Subscribes with `ws`: offers permessage-deflate, takes SETs with credit, acknowledges, breaks the connection in the middle.
// Arguments: module path of ws, URL, token file, SETs to take, how many of them before the break. Prints one JSON object.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [module, url, tokenFile, most, before] = process.argv.slice(2);
const { default: WebSocket } = await import(pathToFileURL(module));
const headers = { Authorization: `Bearer ${readFileSync(tokenFile, "utf8").trim()}` };
const told = { offered: "", extensions: null, protocol: null, tokens: {}, held: [], again: [], code: null };
const credit = 4;

function open(last) {
  return new Promise((done, failed) => {
    const socket = new WebSocket(url, ["setgate.v1", "pushpull"], { headers, perMessageDeflate: true });
    let here = 0;
    socket.on("upgrade", answer => {
      told.offered = socket._req?.getHeader?.("Sec-WebSocket-Extensions") ?? told.offered;
      told.extensions = answer.headers["sec-websocket-extensions"] ?? null;
      told.protocol = answer.headers["sec-websocket-protocol"];
    });
    socket.on("open", () => socket.send(JSON.stringify({ maxEvents: credit })));
    socket.on("message", data => {
      const sets = Object.entries(JSON.parse(data).sets ?? {});
      if (sets.length > credit) return failed(new Error(`${sets.length} SETs for a credit of ${credit}`));
      for (const [jti, token] of sets) {
        if (!last && here >= Number(before)) { told.held.push(jti); continue; }   // held, never acknowledged
        if (told.held.includes(jti)) told.again.push(jti);
        told.tokens[jti] = token; here += 1;
        socket.send(JSON.stringify({ ack: [jti], maxEvents: 1 }));
      }
      if (!last && told.held.length > 0) { socket.terminate(); done(); }
      if (Object.keys(told.tokens).length >= Number(most)) socket.close(1000);
    });
    socket.on("close", code => { told.code = code; done(); });
    socket.on("error", failed);
    socket.on("unexpected-response", (_, answer) => failed(new Error(`answered ${answer.statusCode}`)));
  });
}

await open(false);
await open(true);
console.log(JSON.stringify(told));
