/** A rados driver that does what its parent says: methods of the driver by name, and the ones below. Arguments: compiled sources, settings. */
import path from 'node:path';

const [, , compiled, settings] = process.argv;
const { RadosDriver } = await import(path.join(compiled, 'blockers/rados/index.js'));
const { connect } = await import(path.join(compiled, 'rados/index.js'));
const { runIo } = await import(path.join(compiled, 'blockers/object-io.js'));

const driver = new RadosDriver(JSON.parse(settings));

/** What the raw client has done: values acknowledged, and the errors in order. */
const raw = { acknowledged: 0, errors: [], client: '' };

const own = {
  /** Writes growing numbers through a client without the driver, as fast as they are acknowledged, until one fails. */
  async writeOnAndOn(object) {
    const { pool: name, namespace, conf, cephxId } = JSON.parse(settings);
    const cluster = await connect({ conf, id: cephxId });
    raw.client = `client.${cluster.instanceId}`;
    const pool = await cluster.pool(name, namespace);
    const bytes = Buffer.alloc(8);
    const next = async (value) => {
      for (; ; value += 16) {
        bytes.writeDoubleLE(value);
        await pool.operate(object, [{ do: 'write', data: Buffer.from(bytes), offset: 0 }]);
        raw.acknowledged = Math.max(raw.acknowledged, value);
      }
    };
    for (let i = 1; i <= 16; i++) next(i).catch((error) => raw.errors.push(error.code));
    return { address: cluster.addresses[0], instance: raw.client };
  },
  async outcome() {
    return raw;
  },
  /** One write of the driver, with this many ms left to begin. */
  async write(name, text, left) {
    const data = Buffer.from(text);
    const deadline = left === 0 ? 0 : Number(process.hrtime.bigint()) / 1e6 + left;
    await runIo(driver, 'write', { name, offset: 0, length: data.length, data, deadline });
  },
};

process.on('message', async ({ id, method, args }) => {
  try {
    const result = await (own[method] ? own[method](...args) : driver[method](...args));
    process.send({ id, result });
  } catch (error) {
    process.send({ id, error: { code: error.code ?? '', message: error.message } });
  }
});
