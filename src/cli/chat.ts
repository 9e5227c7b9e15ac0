// `needletail chat`: a conversation in the terminal. Ctrl-C stops an answer, and leaves when there is none.
import type { Command } from 'commander';
import { createInterface } from 'node:readline';
import type { GenerateParams } from '../llm/generate-params.ts';
import type { ChatMessage } from '../llm/chat.ts';
import type { LLM } from '../llm/llm.ts';
import { isNeedletailError } from '../util/errors.ts';
import { addLLMFlags, loadLLM, type LLMFlags } from './llm-flags.ts';
import { addSamplingFlags, generateParams, type SamplingFlags } from './sampling-flags.ts';

const PROMPT = '> ';

type Flags = LLMFlags & SamplingFlags & { readonly system?: string };

export function registerChat(program: Command): void {
  const command = program.command('chat').description('chat in the terminal');
  addSamplingFlags(addLLMFlags(command))
    .option('--system <text>', 'the first message, of role system')
    .action(runChat);
}

async function runChat(model: string, flags: Flags): Promise<void> {
  await using llm = await loadLLM(model, flags);
  console.log('Type a message. Ctrl-C stops an answer, /reset begins anew, /exit leaves.');
  await converse(llm, generateParams(flags), flags.system);
}

async function converse(llm: LLM, params: GenerateParams, system: string | undefined): Promise<void> {
  const first: ChatMessage[] = system === undefined ? [] : [{ role: 'system', content: system }];
  let messages = [...first];
  let answering: AbortController | null = null;
  const lines = createInterface({ input: process.stdin, output: process.stdout, prompt: PROMPT });
  lines.on('SIGINT', () => (answering ? answering.abort() : lines.close()));
  // A piped text has ended long before its last line is answered, and then readline refuses to prompt.
  let hasEnded = false;
  lines.on('close', () => (hasEnded = true));
  const prompt = () => (hasEnded ? process.stdout.write(PROMPT) : lines.prompt());
  prompt();
  for await (const line of lines) {
    if (line.trim() === '/exit') break;
    if (line.trim() === '/reset') messages = [...first];
    else if (line.trim() !== '') {
      answering = new AbortController();
      messages = await answer(llm, [...messages, { role: 'user', content: line }], params, answering.signal);
      answering = null;
    }
    prompt();
  }
  lines.close();
}

/** Prints the answer and gives back the conversation with it, or without the question if it could not be answered. */
async function answer(
  llm: LLM,
  messages: readonly ChatMessage[],
  params: GenerateParams,
  signal: AbortSignal,
): Promise<ChatMessage[]> {
  let content = '';
  try {
    for await (const chunk of llm.chat(messages, params, { signal })) {
      process.stdout.write(chunk.text);
      content += chunk.text;
    }
  } catch (error) {
    if (!isNeedletailError(error)) throw error;
    if (error.code !== 'aborted') {
      console.log(
        `error: ${error.message}${error.code === 'context_length_exceeded' ? ' (/reset begins anew)' : ''}`,
      );
      return messages.slice(0, -1);
    }
    process.stdout.write(' [stopped]');
  }
  process.stdout.write('\n');
  return [...messages, { role: 'assistant', content }];
}
