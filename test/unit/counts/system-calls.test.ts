/** What strace writes is counted right: also calls that another thread interrupted in two lines, and those that failed. */
import { describe, expect, it } from 'vitest';
import { parse } from '../../e2e/harness/system-calls.js';

const trace = `
100   epoll_pwait(13, [{events=EPOLLIN, data={u32=21, u64=21}}], 1024, -1, NULL, 8) = 1
100   read(21, ""..., 65536)            = 28
100   preadv2(25, [{iov_base=""..., iov_len=4096}], 1, 8192, RWF_NOWAIT) = 4096
101   futex(0x7f0c, FUTEX_WAIT_PRIVATE, 2, NULL <unfinished ...>
100   sendmsg(21, {msg_name=NULL, msg_iov=[{iov_base=""..., iov_len=16}], msg_iovlen=1}, MSG_DONTWAIT|MSG_NOSIGNAL) = 4112
101   <... futex resumed>)              = -1 EAGAIN (Resource temporarily unavailable)
101   fdatasync(25 <unfinished ...>
100   recvfrom(21, 0x7f, 4096, MSG_DONTWAIT|MSG_NOSIGNAL, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
100   epoll_pwait(13, [], 1024, 0, NULL, 8) = 0
101   <... fdatasync resumed>)          = 0
100   mmap(NULL, 262144, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0) = 0x7f1a2b3c4000
100   epoll_pwait(13,  <unfinished ...>
100   <... epoll_pwait resumed>[{events=EPOLLIN, data={u32=9, u64=9}}], 1024, 40, NULL, 8) = 1
102   +++ exited with 0 +++
`;

describe('counting system calls', () => {
  const counted = parse(trace);

  it('counts each call once, by name', () => {
    const names = ['epoll_pwait', 'read', 'preadv2', 'sendmsg', 'recvfrom', 'fdatasync', 'futex', 'mmap', 'exited'];
    expect(names.map((name) => counted.of(name))).toEqual([3, 1, 1, 1, 1, 1, 1, 1, 0]);
    expect(counted.of('read', 'recvfrom')).toBe(2);
  });

  it('leaves what threads and memory cost out of the sum', () => {
    expect(counted.total).toBe(8);
  });

  it('adds up the bytes of calls that moved some, and no addresses', () => {
    expect(counted.bytes).toBe(28 + 4096 + 4112);
  });

  it('takes a return of epoll with nothing to do for no wake-up', () => {
    expect(counted.wakeUps).toBe(2);
  });

  it('says of each per request how often, and how often in vain', () => {
    expect(counted.text(2)).toContain('epoll_pwait 1.5');
    expect(counted.text(2)).toContain('recvfrom 0.5 (0.5 failed)');
  });
});
