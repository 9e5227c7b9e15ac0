// A progress bar on a terminal, and nothing elsewhere.
import { formatBytes } from '../util/format-bytes.ts';

const BAR_WIDTH = 30;

/** Called with what is done and what there is to do; `stage` names it where there are several. */
export type Progress = (done: number, total: number, stage?: string) => void;

/** One line on stderr for each stage, drawn over itself until all is done. */
export function progressBar(label: string, format: (count: number) => string = formatBytes): Progress {
  const { stderr } = process;
  if (!stderr.isTTY) return () => undefined;
  let last = '';
  return (done, total, stage = label) => {
    const percent = total === 0 ? 100 : Math.floor((100 * done) / total);
    if (last === `${stage} ${percent}`) return;
    last = `${stage} ${percent}`;
    const bar = '#'.repeat(Math.round((percent / 100) * BAR_WIDTH)).padEnd(BAR_WIDTH, '.');
    const line = `${stage} [${bar}] ${format(done)} of ${format(total)}`;
    stderr.write(`\r${line}\u001b[K${percent === 100 ? '\n' : ''}`);
  };
}
