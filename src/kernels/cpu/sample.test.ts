import { describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';
import { describeSampling } from '../../../test/support/describe-sampling.ts';
import { samplingBatch, type SamplingRow } from '../../../test/support/sampling-batch.ts';

describe.each(CpuLibrary.available())('sampling, %s', (arch) => {
  const cpu = useCpuSession(arch);

  describeSampling((logits, vocabSize, sampling) => cpu.session.sample(logits, vocabSize, sampling));

  it('refuses ids and offsets that are out of range', async () => {
    const logits = new Float32Array(40);
    const refuse = (row: SamplingRow, message: string) =>
      expect(cpu.session.sample(logits, 40, samplingBatch([row]))).rejects.toThrow(message);
    await refuse({ targetId: 40 }, 'targetIds[0] is 40');
    await refuse({ bias: [{ id: 40, value: 1 }] }, 'biasIds[0] is 40');
    await refuse({ history: [{ id: -1, outputCount: 1 }] }, 'historyIds[0] is -1');
    await refuse({ numLogprobs: 41 }, 'numLogprobs[0] is 41');
    const bad = { ...samplingBatch([{}]), biasOffsets: Int32Array.of(1, 0) };
    await expect(cpu.session.sample(logits, 40, bad)).rejects.toThrow('biasOffsets');
  });
});
