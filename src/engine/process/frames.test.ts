import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { toyRequest } from '../../../test/support/toy-engine.ts';
import type { EngineOutput, EngineStats } from '../protocol.ts';
import { type Frame, FrameDecoder, FrameWriter, PayloadReader } from './frames.ts';
import { readRequest, writeRequest } from './messages.ts';
import { NO_STATS, readStep, writeStep } from './step-message.ts';

const payloadOf = (bytes: Buffer): Buffer => new FrameDecoder().push(bytes)[0].payload;

test('frames come out whole, however the stream is split', () => {
  const frames = fc.array(fc.record({ type: fc.nat(255), text: fc.string({ maxLength: 40 }) }), {
    maxLength: 8,
  });
  fc.assert(
    fc.property(frames, fc.array(fc.integer({ min: 1, max: 30 })), (sent, sizes) => {
      const writer = new FrameWriter();
      const stream = Buffer.concat(sent.map(({ type, text }) => writer.begin(type).string(text).end()));
      const decoder = new FrameDecoder();
      const received: Frame[] = [];
      for (let offset = 0, i = 0; offset < stream.length; i++) {
        const size = sizes.length > 0 ? sizes[i % sizes.length] : stream.length;
        received.push(...decoder.push(stream.subarray(offset, offset + size)));
        offset += size;
      }
      const read = received.map(({ type, payload }) => ({ type, text: new PayloadReader(payload).string() }));
      expect(read).toEqual(sent);
    }),
  );
});

describe('a stream that is out of step', () => {
  test('is noticed by an absurd length', () => {
    expect(() => new FrameDecoder().push(Buffer.from('HTTP/1.1 200 OK'))).toThrow(/claims/);
  });

  test('is noticed by a field that is not there', () => {
    const payload = payloadOf(new FrameWriter().begin(1).uint32(1000).end());
    expect(() => new PayloadReader(payload).string()).toThrow(RangeError);
    expect(() => new PayloadReader(payload).int32s()).toThrow(RangeError);
  });
});

const token = fc.integer({ min: 0, max: 2 ** 31 - 1 });
const logprob = fc.float({ noNaN: true });
const logprobs = fc.array(
  fc.record({
    tokenId: token,
    logprob,
    rank: fc.nat(),
    top: fc.array(fc.record({ tokenId: token, logprob }), { maxLength: 3 }),
  }),
  { maxLength: 3 },
);
const HANDLE = 2 ** 32 - 1;
const output: fc.Arbitrary<EngineOutput> = fc.record({
  requestId: fc.constant(String(HANDLE)),
  index: fc.nat(127),
  tokenIds: fc.array(token, { maxLength: 4 }),
  logprobs: fc.option(logprobs),
  promptLogprobs: fc.option(logprobs.map((scored) => [null, ...scored])),
  finishReason: fc.constantFrom(null, 'stop', 'length', 'abort', 'error'),
  stopTokenId: fc.option(token),
  error: fc.option(fc.record({ code: fc.constant('deadline_exceeded'), message: fc.string() })),
  numCachedTokens: fc.nat(),
  timing: fc.option(
    fc.record({
      queuedMs: fc.double({ noNaN: true }),
      prefillMs: fc.double({ noNaN: true }),
      decodeMs: fc.double({ noNaN: true }),
      numPreemptions: fc.nat(),
    }),
  ),
});

test('a step message says what it was told', () => {
  fc.assert(
    fc.property(fc.array(output, { maxLength: 5 }), fc.nat(), (outputs, numSteps) => {
      const stats: EngineStats[] = [NO_STATS, { ...NO_STATS, numSteps }];
      const payload = payloadOf(writeStep(new FrameWriter(), { stats, outputs }));
      const named = outputs.map((output) => ({ ...output, requestId: 'a' }));
      expect(readStep(payload, new Map([[HANDLE, 'a']]))).toEqual({ stats, outputs: named });
    }),
  );
});

test('a request arrives as it was sent', () => {
  const request = toyRequest(
    'ä',
    Array.from({ length: 5000 }, (_, i) => i),
    { seed: 2n ** 64n - 1n, logitBias: [{ tokenId: 3, bias: -Infinity }], stopTokenIds: [1, 2] },
    { cacheSalt: '盐', timeoutMs: 1.5, priority: -3 },
  );
  expect(readRequest(payloadOf(writeRequest(new FrameWriter(), 7, request)))).toEqual({ handle: 7, request });
});
