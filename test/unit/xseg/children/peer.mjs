/** Another process on a segment, for tests: peer.mjs COMPILED SPEC MODE ARGS… */
const [compiled, spec, mode, ...args] = process.argv.slice(2);
const { Segment } = await import(`${compiled}/index.js`);
const { lock } = await import(`${compiled}/lock.js`);
const { H, P, R, RequestState } = await import(`${compiled}/layout.js`);

const segment = Segment.join(spec);
const say = (what) => process.send(what);

/** Answers each request with its size; those of op 99 never. */
function serve(port) {
  port.serve((request) => {
    if (request.op === 99) say('holds');
    else request.succeed(request.size);
  });
}

const modes = {
  /** peer echo PORT */
  echo([number]) {
    serve(segment.bind(Number(number), { name: 'echo' }));
    segment.ref();
    say('ready');
  },

  /** peer ask PORT COUNT DEPTH: asks that many requests and says done */
  ask([dst, count, depth]) {
    const port = segment.bind('dynamic', { name: 'asker' });
    segment.ref();
    let left = Number(count);
    let out = 0;
    const next = () => {
      const request = port.getRequest();
      request.op = 1;
      request.size = left;
      const expected = left--;
      out++;
      request.onReply = () => {
        if (!request.served || request.serviced !== expected) throw new Error('a wrong answer');
        port.putRequest(request);
        out--;
        if (left > 0) next();
        else if (out === 0) {
          segment.close();
          say('done');
          process.disconnect();
        }
      };
      port.submit(request, Number(dst));
    };
    say('ready');
    for (let i = 0; i < Number(depth); i++) next();
  },

  /** peer mapper OWN COMPOSER STORE: asks both, and answers only after asking the store; says done when it has its answers */
  mapper([own, composer, store]) {
    const port = segment.bind(Number(own), { name: 'mapper' });
    segment.ref();
    let left = 2;
    const ask = (dst, op) => {
      const request = port.getRequest();
      request.op = op;
      request.onReply = () => {
        port.putRequest(request);
        if (--left === 0) say('done');
      };
      port.submit(request, Number(dst));
    };
    ask(composer, 1);
    ask(store, 2);
    port.serve(async (request) => {
      await port.call(Number(store), { op: 1 });
      request.succeed(0);
    });
    say('ready');
  },

  /** peer chaos OWN DST: serves OWN while it asks DST, allocates and frees without end */
  chaos([own, dst]) {
    const port = segment.bind(Number(own), { name: 'chaos' });
    const asker = segment.bind('dynamic', { name: 'chaos asker' });
    serve(port);
    const buffers = [];
    const next = () => {
      const request = asker.getRequest();
      const length = 1 + Math.floor(Math.random() * 200_000);
      const data = asker.allocate(length);
      if (data >= 0) request.setData(data, length);
      request.op = 1;
      request.size = length;
      request.target = 'chaos';
      request.onReply = () => {
        asker.putRequest(request);
        if (data >= 0) buffers.push(data);
        if (buffers.length > 20) asker.free(buffers.splice(Math.floor(Math.random() * buffers.length), 1)[0]);
        next();
      };
      asker.submit(request, Number(dst));
    };
    for (let i = 0; i < 24; i++) next();
    say('ready');
  },

  /** peer storm: takes and gives back heap blocks, records and ports in one endless loop, most of the time under a lock */
  storm() {
    const port = segment.bind('dynamic', { name: 'storm' });
    say('ready');
    setImmediate(() => {
      for (;;) {
        const taken = [];
        for (let i = 0; i < 20; i++) {
          const offset = port.allocate(1 + Math.floor(Math.random() * 1_000_000));
          if (offset >= 0) taken.push(offset);
        }
        for (const offset of taken) port.free(offset);
        const records = [];
        for (let request = port.getRequest(); request; request = port.getRequest()) records.push(request);
        for (const request of records) port.putRequest(request);
        port.giveBackSpare();
        segment.bind('dynamic', { name: 'passing' }).close();
      }
    });
  },

  /** peer lock WHICH PORT: takes a lock of the segment, or of a port's queue, and keeps it */
  lock([which, number]) {
    const port = segment.bind('dynamic', { name: 'holder' });
    const queues = segment.tables.portWord(Number(number ?? 0));
    const words = {
      ports: H.PORTS_LOCK,
      requests: H.REQUESTS_LOCK,
      heap: H.HEAP_LOCK,
      requestQueue: queues + P.REQUEST_LOCK,
      replyQueue: queues + P.REPLY_LOCK,
    };
    lock(segment.memory, words[which], port.number);
    say('ready');
  },

  /** peer push DST HOW: stops in the middle of sending: the state is set, and with `slot` the ring's slot, but not its tail */
  push([dst, how]) {
    const port = segment.bind('dynamic', { name: 'pusher' });
    const { u32, i32 } = segment.memory;
    const request = port.getRequest();
    request.setData(port.allocate(8192), 8192);
    u32[request.word + R.DST] = Number(dst);
    const target = segment.tables.portWord(Number(dst));
    lock(segment.memory, target + P.REQUEST_LOCK, port.number);
    Atomics.store(i32, request.word + R.STATE, RequestState.SUBMITTED);
    if (how === 'slot') {
      const { queueCapacity, queues } = segment.geometry;
      const ring = queues / 4 + Number(dst) * 2 * queueCapacity;
      u32[ring + (u32[target + P.REQUEST_TAIL] & (queueCapacity - 1))] = request.index;
    }
    say('ready');
  },

  /** peer hold99 DST: asks for what is never answered */
  hold99([dst]) {
    const port = segment.bind('dynamic', { name: 'asker' });
    const request = port.getRequest();
    request.setData(port.allocate(8192), 8192);
    request.op = 99;
    port.submit(request, Number(dst));
    say('ready');
  },

  /** peer records COUNT: holds records and buffers that no request uses */
  records([count]) {
    const port = segment.bind('dynamic', { name: 'keeper' });
    for (let i = 0; i < Number(count); i++) {
      port.getRequest();
      port.allocate(100_000);
    }
    say('ready');
  },

  /** peer hold DST COUNT: submits requests with data and never looks at their answers */
  hold([dst, count]) {
    const port = segment.bind('dynamic', { name: 'holder' });
    for (let i = 0; i < Number(count); i++) {
      const request = port.getRequest();
      request.setData(port.allocate(8192), 8192);
      request.op = 1;
      port.submit(request, Number(dst));
    }
    say('ready');
  },
};
modes[mode](args);
// Without its parent a peer has no purpose.
process.on('disconnect', () => process.exit(0));
setInterval(() => {}, 1 << 30);
