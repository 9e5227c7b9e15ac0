// SIGTERM and SIGINT: the first drains the server, the second ends it at once.
import type { RunningServer } from './server.ts';

/** Resolves when a signal has ended the server. `onSignal` is told how many have come. */
export function closeOnSignals(server: RunningServer, onSignal?: (count: number) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    let count = 0;
    const handle = () => {
      count++;
      onSignal?.(count);
      if (count > 1) server.abort();
      else server.close().then(resolve, reject).finally(stop);
    };
    const stop = () => process.off('SIGTERM', handle).off('SIGINT', handle);
    process.on('SIGTERM', handle).on('SIGINT', handle);
  });
}
