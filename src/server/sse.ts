// Server-sent events on a response of its own: what one step brings to a connection leaves in one write.
import type { FastifyReply } from 'fastify';

export class SseStream {
  readonly #reply: FastifyReply;
  #pending = '';
  #isFlushScheduled = false;
  #isOpen = false;
  #drained: Promise<void> | null = null;

  constructor(reply: FastifyReply) {
    this.#reply = reply;
  }

  /** Whether the status line has been sent, so that errors can only be told as events. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Set while the client reads slower than events are made. */
  get drained(): Promise<void> | null {
    return this.#drained;
  }

  /** @param events complete events: `data: …\n\n`, any number of them */
  send(events: string): void {
    if (events === '') return;
    this.#pending += events;
    if (!this.#isOpen) this.#open();
    if (this.#isFlushScheduled) return;
    this.#isFlushScheduled = true;
    // All outputs of a step are handled before the next turn of the event loop.
    setImmediate(() => this.#flush());
  }

  end(): void {
    this.#reply.raw.end(this.#pending);
    this.#pending = '';
  }

  #open(): void {
    this.#isOpen = true;
    this.#reply.hijack();
    this.#reply.raw.writeHead(200, {
      ...(this.#reply.getHeaders() as Record<string, string>),
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      // Proxies such as nginx would otherwise gather events before they pass them on.
      'x-accel-buffering': 'no',
    });
  }

  #flush(): void {
    this.#isFlushScheduled = false;
    const { raw } = this.#reply;
    if (this.#pending === '' || raw.destroyed) return;
    const isReady = raw.write(this.#pending);
    this.#pending = '';
    if (!isReady) this.#drained ??= this.#whenDrained();
  }

  #whenDrained(): Promise<void> {
    const { raw } = this.#reply;
    return new Promise((resolve) => {
      const done = () => {
        raw.off('drain', done).off('close', done);
        this.#drained = null;
        resolve();
      };
      raw.on('drain', done).on('close', done);
    });
  }
}
