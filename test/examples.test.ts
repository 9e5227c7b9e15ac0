// The examples run, end by themselves, and show what their first line says.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '..');
const FOLDER = path.join(ROOT, 'examples');

const SHOWS: Readonly<Record<string, RegExp>> = {
  '01-generate.ts':
    /0: The little fox.*\n1: The little fox.*\n2: The little fox.*\n\d+ prompt tokens, \d+ generated/,
  '02-chat.ts': /The Lantern in the Snow\n\nIt was a crisp autumn evening[\s\S]* \[stopped\]/,
  '03-define-a-model.ts': /^on .*token ids: (\d+ ){7}\d+\n$/,
  '04-serve.ts': /listening at http:[\s\S]*\[\d+ tokens\]\n[\s\S]*\[\d+ tokens\]/,
};

describe.each(readdirSync(FOLDER))('%s', (name) => {
  it('runs', () => {
    const script = path.join('examples', name);
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', script], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(stdout).toMatch(SHOWS[name]);
  });

  it('fits on a screen', () => {
    expect(readFileSync(path.join(FOLDER, name), 'utf8').split('\n').length).toBeLessThanOrEqual(41);
  });
});
