import { expect, test } from 'vitest';
import type { EngineOutput, EngineRequest, EngineStats } from '../engine/protocol.ts';
import { runLatency, runThroughput, type SteppableEngine } from './offline.ts';

/** Gives every running request one token a step; two slots. */
function fakeEngine(failing = false): SteppableEngine & { readonly added: EngineRequest[] } {
  const added: EngineRequest[] = [];
  const live: { request: EngineRequest; left: number }[] = [];
  let numSteps = 0;
  return {
    added,
    get hasWork() {
      return live.length > 0;
    },
    add(request) {
      added.push(request);
      live.push({ request, left: request.sampling.maxTokens });
    },
    async step() {
      numSteps++;
      const running = live.slice(0, 2);
      const outputs = running.map(({ request: { requestId }, left }) => ({
        requestId,
        tokenIds: [1],
        finishReason: left === 1 ? 'length' : null,
        error: null,
      }));
      for (const sequence of running) if (--sequence.left === 0) live.splice(live.indexOf(sequence), 1);
      const error = failing ? { code: 'device_failed' as const, message: 'no device' } : null;
      return outputs.map((output) => ({ ...output, error })) as unknown as EngineOutput[];
    },
    abort(requestId) {
      const index = live.findIndex(({ request }) => request.requestId === requestId);
      if (index >= 0) live.splice(index, 1);
    },
    stats: () => ({ numRunning: Math.min(2, live.length), numSteps, numPreemptions: 0 }) as EngineStats,
  };
}

const request = (outputTokens: number) => ({ promptTokenIds: Int32Array.of(1, 2, 3), outputTokens });

test('throughput counts every token and step', async () => {
  const engine = fakeEngine();
  const result = await runThroughput(engine, [request(4), request(2), request(3)]);
  expect(result).toMatchObject({
    numRequests: 3,
    inputTokens: 9,
    outputTokens: 9,
    numSteps: 5,
    maxRunning: 2,
  });
  expect(result.outputTokensPerSecond).toBeCloseTo(9 / result.seconds);
  expect(
    engine.added.every(({ sampling }) => sampling.temperature === 0 && sampling.stopTokenIds.length === 0),
  ).toBe(true);
});

test('throughput ends when its time is up and counts what was done', async () => {
  const result = await runThroughput(fakeEngine(), [request(4), request(2), request(3)], {
    maxSeconds: 0,
  });
  expect(result).toMatchObject({ numRequests: 0, outputTokens: 2, isCut: true });
});

test('latency is of the batch, first tokens of its last sequence', async () => {
  const result = await runLatency(fakeEngine(), [[request(2), request(2), request(1)], [request(3)]]);
  expect(result.batchMs.n).toBe(2);
  expect(result.firstTokensMs.p50).toBeLessThanOrEqual(result.batchMs.p50);
});

test('an error of the engine ends the run', async () => {
  await expect(runThroughput(fakeEngine(true), [request(1)])).rejects.toThrow('no device');
});
