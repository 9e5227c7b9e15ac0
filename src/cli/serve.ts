// `needletail serve`: OpenAI's API over HTTP, with a page to chat at `/`.
import { Option, type Command } from 'commander';
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { EngineInfo } from '../engine/protocol.ts';
import { addLLMFlags, loadLLM, type LLMFlags } from './llm-flags.ts';
import { byteSize, decimalNumber, wholeNumber } from './parsers.ts';

interface ServeFlags extends LLMFlags {
  readonly host: string;
  readonly port: number;
  readonly servedModelName?: readonly string[];
  readonly apiKey?: readonly string[];
  readonly allowedOrigins?: readonly string[];
  readonly skipTokenizerInit?: true;
  readonly maxBodyBytes: number;
  readonly streamIntervalMs: number;
  readonly shutdownTimeout: number;
  readonly logLevel: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';
}

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

export function registerServe(program: Command): void {
  const command = program.command('serve').description('serve a model over HTTP, as OpenAI does');
  addLLMFlags(command)
    .option('--host <address>', 'where to listen; 0.0.0.0 is every interface', '127.0.0.1')
    .addOption(
      new Option('--port <n>', 'where to listen; 0: any free port')
        .argParser(wholeNumber(0, 65535))
        .default(8000),
    )
    .option('--served-model-name <name...>', "the model's names in the API (default: its folder or hub id)")
    .addOption(
      new Option('--api-key <key...>', 'keys that open every route but /health').env('NEEDLETAIL_API_KEY'),
    )
    .option('--allowed-origins <origin...>', 'web pages that may use the API (CORS); * is any')
    .option('--skip-tokenizer-init', 'no tokenizer: prompts are token ids, text stays empty')
    .addOption(
      new Option('--max-body-bytes <size>', 'largest request')
        .argParser(byteSize)
        .default(8 * 2 ** 20, '8MiB'),
    )
    .addOption(
      new Option(
        '--stream-interval-ms <ms>',
        'longest wait of tokens to leave the engine together while many sequences run; 0: none',
      )
        .argParser(wholeNumber(0, 1000))
        .default(40),
    )
    .addOption(
      new Option('--shutdown-timeout <seconds>', 'what running requests get to end after SIGTERM')
        .argParser(decimalNumber(0, 86_400))
        .default(30),
    )
    .addOption(new Option('--log-level <level>', 'of the log on stderr').choices(LOG_LEVELS).default('info'))
    .action(runServe);
}

async function runServe(model: string, flags: ServeFlags): Promise<void> {
  const [{ startServer }, { closeOnSignals }] = await Promise.all([
    import('../server/server.ts'),
    import('../server/signals.ts'),
  ]);
  const llm = await loadLLM(model, flags, {
    skipTokenizerInit: flags.skipTokenizerInit,
    streamIntervalMs: flags.streamIntervalMs,
    onEngineDeath: (reason) => console.error(`the engine died and is started again: ${reason}`),
  });
  const servedModelNames = flags.servedModelName ?? [defaultName(model)];
  const apiKeys = flags.apiKey ?? [];
  const server = await startServer({
    ...{ llm, servedModelNames, apiKeys, host: flags.host, port: flags.port, logLevel: flags.logLevel },
    allowedOrigins: flags.allowedOrigins ?? [],
    maxBodyBytes: flags.maxBodyBytes,
    drainTimeoutMs: 1000 * flags.shutdownTimeout,
  }).catch(async (error: unknown) => {
    await llm.close();
    throw error;
  });
  console.log(
    greeting(
      server.url,
      servedModelNames[0],
      llm.engine.info,
      apiKeys.length > 0,
      flags.skipTokenizerInit === true,
    ),
  );
  await closeOnSignals(server, (count) => {
    if (count === 1) console.error('draining; once more to end at once');
  });
}

/** A folder's own name, a hub id or preset as it is. */
function defaultName(model: string): string {
  return existsSync(model) ? path.basename(path.resolve(model)) : model;
}

function greeting(
  url: string,
  model: string,
  { device, recipe }: EngineInfo,
  needsKey: boolean,
  takesIds: boolean,
): string {
  const key = needsKey ? ` -H "authorization: Bearer $NEEDLETAIL_API_KEY"` : '';
  const [route, body] = takesIds
    ? ['completions', { prompt: [1, 2, 3] }]
    : [
        'chat/completions',
        { messages: [{ role: 'user', content: 'Write a bedtime story about a lantern.' }] },
      ];
  return [
    `${model}, ${recipe} on ${device}, is served at ${url} (open it in a browser to chat). Try:`,
    `  curl ${url}/v1/${route} -H 'content-type: application/json'${key} -d '${JSON.stringify(body)}'`,
  ].join('\n');
}
