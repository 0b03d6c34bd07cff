// A server with a leak, like server.py beside it: server.js unread|eof_unread|eof_ignored|close
const net = require("node:net");
const readline = require("node:readline");

const mode = process.argv[2];
const connections = [];

const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: mode === "unread" }, (socket) => {
  connections.push(socket);
  socket.on("error", () => {});
  // pause() alone goes on reading into the stream's buffer, and with it the EOF.
  if (mode === "eof_unread") socket.on("data", () => socket._handle.readStop());
  if (mode === "eof_ignored") socket.on("data", () => {});
  if (mode === "close") socket.on("data", () => {}).on("end", () => socket.end());
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));

const readRest = (socket) =>
  new Promise((resolve) => {
    const parts = [];
    socket.on("data", (part) => parts.push(part));
    socket.on("end", () => resolve(Buffer.concat(parts)));
    socket.resume();
  });

readline.createInterface({ input: process.stdin })
  .on("line", async () => console.log(Buffer.concat(await Promise.all(connections.map(readRest))).toString("hex")))
  .on("close", () => process.exit());
