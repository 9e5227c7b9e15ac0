import { expect, test } from 'vitest';
import { formatCommand, formatNumber, formatStamp, formatTable, stampRun } from './report.ts';

test('numbers keep three digits that mean something', () => {
  expect([4587.4, 49.54, 8.584, 0.12345, 0, NaN].map(formatNumber)).toEqual([
    '4587',
    '49.5',
    '8.58',
    '0.123',
    '0',
    '-',
  ]);
});

test('tables align', () => {
  expect(
    formatTable([
      ['', 'p50'],
      ['ttft', '7'],
    ]),
  ).toBe('      p50\nttft    7');
});

test('a run says what it was made with', () => {
  const text = formatStamp(stampRun());
  expect(text).toContain(process.version.slice(1));
  expect(text).toMatch(/cores/);
});

test('a command can be repeated from its record, but for its keys', () => {
  expect(formatCommand(['node', '/x', '--prompt', 'a b', '--api-key', 'secret', '--api-key=secret'])).toMatch(
    / --prompt 'a b' --api-key \.\.\. --api-key=\.\.\.$/,
  );
});
