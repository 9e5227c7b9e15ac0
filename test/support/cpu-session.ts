// A session of the cpu kernels for the tests of one `describe`.
import { afterAll, beforeAll } from 'vitest';
import { CpuHarness, type HarnessSession } from './cpu-harness.ts';

export interface CpuSession {
  readonly harness: CpuHarness;
  readonly session: HarnessSession;
}

/** Opened before the tests of the surrounding `describe`, which alone may read its fields, and freed after them. */
export function useCpuSession(arch: string): CpuSession {
  const opened = {} as { -readonly [Field in keyof CpuSession]: CpuSession[Field] };
  beforeAll(() => {
    opened.harness = new CpuHarness(arch);
    opened.session = opened.harness.session();
  });
  afterAll(() => {
    opened.session.free();
    opened.harness.close();
  });
  return opened;
}
