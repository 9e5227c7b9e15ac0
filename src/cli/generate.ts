// `needletail generate`: one prompt, its continuation on stdout as it comes.
import type { Command } from 'commander';
import { NeedletailError } from '../util/errors.ts';
import { addLLMFlags, loadLLM, type LLMFlags } from './llm-flags.ts';
import { addSamplingFlags, generateParams, type SamplingFlags } from './sampling-flags.ts';

type Flags = LLMFlags & SamplingFlags & { readonly prompt?: string };

export function registerGenerate(program: Command): void {
  const command = program.command('generate').description('continue a prompt');
  addSamplingFlags(addLLMFlags(command))
    .option('--prompt <text>', 'the prompt (default: what is piped in)')
    .action(runGenerate);
}

async function runGenerate(model: string, flags: Flags): Promise<void> {
  const prompt = flags.prompt ?? (await readPipe());
  await using llm = await loadLLM(model, flags);
  for await (const chunk of llm.generate(prompt, generateParams(flags))) process.stdout.write(chunk.text);
  process.stdout.write('\n');
}

async function readPipe(): Promise<string> {
  if (process.stdin.isTTY)
    throw new NeedletailError('invalid_request', 'say --prompt "…", or pipe a prompt in', {
      param: 'prompt',
    });
  let text = '';
  process.stdin.setEncoding('utf8');
  for await (const piece of process.stdin) text += String(piece);
  return text;
}
