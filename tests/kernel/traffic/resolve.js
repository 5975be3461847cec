// Look a name up by libc ("lookup") or by node's own c-ares ("resolve"), and connect to each address.
const dns = require("node:dns").promises;
const net = require("node:net");
const os = require("node:os");

function connect(host, port) {
  return new Promise((done) => {
    const socket = net.connect({ host, port: Number(port) });
    socket.on("connect", () => { socket.destroy(); done(0); });
    socket.on("error", (error) => done(os.constants.errno[error.code] ?? -1));
  });
}

async function ask(way, name) {
  if (way === "lookup") return (await dns.lookup(name, { all: true })).map((one) => one.address);
  return (await Promise.all([dns.resolve4(name), dns.resolve6(name).catch(() => [])])).flat();
}

(async () => {
  const [way, name, port] = process.argv.slice(2);
  const said = { error: "", addresses: {} };
  try {
    for (const one of await ask(way, name)) said.addresses[one] = await connect(one, port);
  } catch (error) {
    said.error = String(error.code);
  }
  console.log(JSON.stringify(said));
})();
