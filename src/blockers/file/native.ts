/** The one C call of this driver that src/sys/libc.ts cannot offer for the thread pool: koffi has no asynchronous variadic calls. */
import koffi from 'koffi';
import type { Native } from '../../sys/libc.js';

const lib = koffi.load('libc.so.6');

/** ioctl with one integer argument: named and variadic integers are passed alike on x86-64 and arm64 Linux. */
export const ioctl = lib.func('int ioctl(int fd, unsigned long request, uintptr_t arg)') as unknown as Native<
  [fd: number, request: number, arg: number],
  number
>;
