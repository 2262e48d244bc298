// A role process without roles: speaks the control protocol, keeps pidfiles, and misbehaves when a file in its directory says so.
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';

const dir = process.env.DUMMY_DIR;
const group = process.argv[process.argv.indexOf('--roles') + 1].split('+');
const told = (what) => fs.existsSync(path.join(dir, what));
const roles = new Map();
const socket = path.join(dir, `${group[0]}.ctl`);

const stop = (name) => {
  if (!roles.delete(name)) return;
  fs.rmSync(path.join(dir, `${name}.pid`), { force: true });
  fs.appendFileSync(path.join(dir, 'events'), `stop ${name}\n`);
};

const operations = {
  start({ role }) {
    if (told(`die-${role}`)) {
      process.stderr.write(`Error: ${role} met its end\n`);
      process.exit(3);
    }
    if (told(`fail-${role}`)) throw Object.assign(new Error(`${role}: cannot, because of a test`), { errno: 28 });
    fs.writeFileSync(path.join(dir, `${role}.pid`), String(process.pid));
    fs.appendFileSync(path.join(dir, 'events'), `start ${role}\n`);
    roles.set(role, Date.now());
  },
  stop: ({ role }) => stop(role),
  status: () => ({
    pid: process.pid,
    roles: [...roles].map(([name, since]) => ({ name, since, status: { dummy: true } })),
  }),
  exit() {
    fs.rmSync(socket, { force: true });
    setImmediate(() => process.exit(0));
    return null;
  },
};

if (told('die-at-once')) {
  process.stderr.write('Error: no mood today\n');
  process.exit(4);
}
fs.rmSync(socket, { force: true });
net
  .createServer((connection) => {
    let rest = '';
    connection.on('error', () => connection.destroy());
    connection.setEncoding('utf8').on('data', (chunk) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        const { id, op, ...params } = JSON.parse(line);
        if (told(`hang-${params.role}`)) continue;
        let reply;
        try {
          reply = { id, ok: true, result: operations[op](params) ?? null };
        } catch (error) {
          reply = { id, ok: false, errno: error.errno, message: error.message };
        }
        connection.write(`${JSON.stringify(reply)}\n`);
      }
    });
  })
  .listen(socket, () => process.send?.('listening'));
