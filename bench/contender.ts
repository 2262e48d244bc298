/** What a contender is: somebody who is measured. */
import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import type { Cell, DiskKind, Task } from './cells.js';

/** fio's options that reach a disk: its engine, and where the disk is. */
export type Client = readonly string[];

/** A disk that a client can use, and the way to get rid of it. */
export interface Disk {
  readonly client: Client;
  /** The NBD URI, where it is reached by NBD. */
  readonly uri?: string;
  /** Limits all its clients together to so many bytes a second, from now on; 0: no more. Absent: it cannot be told while it runs. */
  limit?(bytesPerSecond: number): Promise<void>;
  /** Bytes that it takes in the file system, where that can be told. */
  allocated?(): Promise<number>;
  dispose(): Promise<void>;
}

/** Writes every byte of a disk. */
export type Fill = (client: Client) => Promise<void>;

export interface Contender {
  readonly id: string;
  readonly title: string;
  /** Another build of this project: nobody's ratio is to it. */
  readonly own?: boolean;
  /** What it is, for the report: program and version. */
  version(): Promise<string>;
  start(): Promise<void>;
  stop(): Promise<void>;
  /** A disk of the suite's size, or null when it has nothing of that kind. */
  disk(kind: DiskKind, fill: Fill): Promise<Disk | null>;
  /** Processes that serve its disks now: their CPU time is what an operation costs. Absent: nobody but the client. */
  servers?(): readonly number[];
  /** Measures a cell by its own means instead of by fio on a disk. Resolves to the rate; null: it has nothing like that. */
  measure?(cell: Cell, seconds: number): Promise<number | null>;
  /** Does what a timed cell asks for, once. Resolves to its milliseconds; absent: it knows no such thing. */
  time?(task: Task): Promise<number>;
}

const nbd = (uri: string): Client => ['--ioengine=nbd', `--uri=${uri}`];

/** How clients reach a disk by NBD. */
export const reach = (uri: string): Pick<Disk, 'client' | 'uri'> => ({ client: nbd(uri), uri });

/** The name and version in what a program prints about itself. */
export const firstLine = (text: string): string => text.trim().split('\n')[0];

export function hasProgram(name: string): boolean {
  return (process.env.PATH ?? '').split(':').some((directory) => {
    try {
      accessSync(path.join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
