// From the start of the process to the first token at an HTTP client, for the built program.
//   npm run build && npm run bench:startup -- [--rounds 5] [--output-json FILE]
import http from 'node:http';
import { parseArgs } from 'node:util';
import { median } from '../src/bench/metrics.ts';
import { formatNumber, formatStamp, formatTable, stampRun, writeRecord } from '../src/bench/report.ts';
import { CLI, freePort, start, stop, untilHealthy } from './processes.ts';

const { values: flags } = parseArgs({
  options: { rounds: { type: 'string', default: '5' }, 'output-json': { type: 'string', default: '' } },
});

interface StartTimes {
  readonly healthyMs: number;
  readonly firstTokenMs: number;
}

/** Resolves when the first event with a token has arrived. */
function firstToken(port: number): Promise<void> {
  const body = JSON.stringify({
    prompt: 'Once upon a time',
    max_tokens: 4,
    stream: true,
    return_token_ids: true,
  });
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json' };
    const options = { host: '127.0.0.1', port, path: '/v1/completions', method: 'POST', headers };
    const request = http.request(options, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (piece: string) => {
        text += piece;
        if (/"token_ids":\s*\[\s*\d/.test(text)) resolve();
      });
      response.on('end', () => reject(new Error(`no token came: ${text.slice(0, 300)}`)));
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function measureStart(command: string, args: readonly string[]): Promise<StartTimes> {
  const port = await freePort();
  const startMs = performance.now();
  const server = start(command, [...args, '--port', String(port), '--log-level', 'warn']);
  try {
    await untilHealthy(server, port);
    const healthyMs = performance.now() - startMs;
    await firstToken(port);
    return { healthyMs, firstTokenMs: performance.now() - startMs };
  } finally {
    await stop(server);
  }
}

const COMMANDS: readonly { name: string; command: string; args: readonly string[] }[] = [
  { name: 'npm start', command: 'npm', args: ['start', '--silent', '--'] },
  { name: `node ${CLI} serve`, command: process.execPath, args: [CLI, 'serve'] },
];

const stamp = stampRun();
const results = [];
for (const { name, command, args } of COMMANDS) {
  const runs: StartTimes[] = [];
  for (let round = 0; round < Number(flags.rounds); round++) runs.push(await measureStart(command, args));
  const middle = (of: (times: StartTimes) => number) => median(runs.map(of));
  results.push({
    name,
    runs,
    healthyMs: middle((t) => t.healthyMs),
    firstTokenMs: middle((t) => t.firstTokenMs),
  });
}
console.log(formatStamp(stamp));
console.log(`median of ${flags.rounds} starts, in ms\n`);
console.log(
  formatTable([
    ['', 'healthy', 'first token'],
    ...results.map((row) => [row.name, formatNumber(row.healthyMs), formatNumber(row.firstTokenMs)]),
  ]),
);
if (flags['output-json']) writeRecord(flags['output-json'], { ...stamp, results });
