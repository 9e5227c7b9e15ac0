// Which HTTP requests are being answered, so that a server that ends can wait for them or cut them off.
import { setMaxListeners } from 'node:events';
import { shuttingDown } from './errors.ts';

export interface OpenGeneration {
  readonly controller: AbortController;
  readonly close: () => void;
}

export class HttpActivity {
  /** From then on new requests are refused. */
  isDraining = false;
  #isAborted = false;
  #numActive = 0;
  #onIdle: (() => void) | null = null;
  readonly #generations = new Set<AbortController>();

  begin(): void {
    this.#numActive++;
  }

  end(): void {
    if (--this.#numActive === 0) this.#onIdle?.();
  }

  /** A controller within reach of `abortAll`. */
  openGeneration(): OpenGeneration {
    const controller = new AbortController();
    setMaxListeners(0, controller.signal); // every prompt of a request listens
    if (this.#isAborted) controller.abort(shuttingDown());
    this.#generations.add(controller);
    return { controller, close: () => this.#generations.delete(controller) };
  }

  /** Ends every generation with `shutting_down`, and those that are still to come. */
  abortAll(): void {
    this.#isAborted = true;
    for (const controller of this.#generations) controller.abort(shuttingDown());
  }

  /** Resolves when no request is being answered, at the latest after `timeoutMs`: false then. */
  async whenIdle(timeoutMs: number): Promise<boolean> {
    if (this.#numActive === 0) return true;
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), timeoutMs);
      this.#onIdle = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }
}
