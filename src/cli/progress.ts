// A progress bar on a terminal, and nothing elsewhere.
import { formatBytes } from '../util/format-bytes.ts';

const BAR_WIDTH = 30;

/** Called with what is done and what there is to do, in bytes unless told. */
export type ProgressBar = (done: number, total: number) => void;

/** One line on stderr that is drawn over itself and ends when all is done. */
export function progressBar(label: string, format: (count: number) => string = formatBytes): ProgressBar {
  const { stderr } = process;
  if (!stderr.isTTY) return () => undefined;
  let lastFraction = -1;
  return (done, total) => {
    const fraction = total === 0 ? 1 : Math.floor((100 * done) / total) / 100;
    if (fraction === lastFraction) return;
    lastFraction = fraction;
    const filled = Math.round(fraction * BAR_WIDTH);
    const bar = '#'.repeat(filled).padEnd(BAR_WIDTH, '.');
    stderr.write(
      `\r${label} [${bar}] ${format(done)} of ${format(total)}\u001b[K${fraction === 1 ? '\n' : ''}`,
    );
  };
}
