// A raw parser of server-sent events over chunks that were kept with their arrival times.

/** Bytes as they came from the socket. */
export interface Arrival {
  readonly atMs: number;
  readonly bytes: Uint8Array;
}

/** One event's data, at the arrival of the chunk that completed it. */
export interface TimedEvent {
  readonly atMs: number;
  readonly data: string;
}

/** The events of a response body, however its bytes were cut into chunks. */
export function parseEvents(arrivals: readonly Arrival[]): TimedEvent[] {
  const decoder = new TextDecoder();
  const events: TimedEvent[] = [];
  let pending = '';
  let data: string[] = [];
  for (const { atMs, bytes } of arrivals) {
    const lines = (pending + decoder.decode(bytes, { stream: true })).split('\n');
    pending = lines.pop()!;
    for (const line of lines) {
      const text = line.endsWith('\r') ? line.slice(0, -1) : line;
      if (text.startsWith('data:')) data.push(text.slice(text[5] === ' ' ? 6 : 5));
      else if (text === '' && data.length > 0) {
        events.push({ atMs, data: data.join('\n') });
        data = [];
      }
    }
  }
  return events;
}
