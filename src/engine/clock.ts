// Time as the engine sees it: injected, so that tests and a simulated device decide how it passes.

export interface Clock {
  /** Milliseconds since some fixed moment; never goes back. */
  now(): number;
}

/** The process's monotonic clock. */
export const systemClock: Clock = { now: () => performance.now() };
