import type { FastifyReply } from 'fastify';
import { EventEmitter } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { SseStream } from './sse.ts';

function fakeReply() {
  const raw = Object.assign(new EventEmitter(), {
    destroyed: false,
    writeHead: vi.fn(),
    write: vi.fn<(text: string) => boolean>(() => true),
    end: vi.fn(),
  });
  const reply = { raw, hijack: vi.fn(), getHeaders: () => ({ 'x-request-id': 'a' }) };
  return { raw, reply, stream: new SseStream(reply as unknown as FastifyReply) };
}

test('nothing is sent before the first event', () => {
  const { raw, stream } = fakeReply();
  stream.send('');
  expect(stream.isOpen).toBe(false);
  stream.send('data: 1\n\n');
  expect(stream.isOpen).toBe(true);
  expect(raw.writeHead).toHaveBeenCalledWith(200, expect.objectContaining({ 'x-request-id': 'a' }));
});

test('the events of one turn leave in one write', async () => {
  const { raw, stream } = fakeReply();
  stream.send('data: 1\n\n');
  stream.send('data: 2\n\n');
  await nextTurn();
  expect(raw.write.mock.calls).toEqual([['data: 1\n\ndata: 2\n\n']]);
  stream.send('data: 3\n\n');
  stream.end();
  expect(raw.end).toHaveBeenCalledWith('data: 3\n\n');
});

test('a full socket holds the sender up until it drains or closes', async () => {
  for (const event of ['drain', 'close']) {
    const { raw, stream } = fakeReply();
    raw.write.mockReturnValue(false);
    stream.send('data: 1\n\n');
    await nextTurn();
    const drained = stream.drained;
    expect(drained).toBeInstanceOf(Promise);
    raw.emit(event);
    await drained;
    expect(stream.drained).toBeNull();
    expect(raw.listenerCount('drain') + raw.listenerCount('close')).toBe(0);
  }
});
