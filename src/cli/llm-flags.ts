// What stands between text and the engine, as flags: tokenizer, chat template, sampling defaults.
import { Option, type Command } from 'commander';
import { existsSync, readFileSync } from 'node:fs';
import type { LLM } from '../llm/llm.ts';
import type { LoadOptions } from '../llm/load.ts';
import { NeedletailError } from '../util/errors.ts';
import { addEngineFlags, engineConfig, type EngineFlags } from './flags.ts';
import { progressBar } from './progress.ts';

export interface LLMFlags extends EngineFlags {
  readonly tokenizer?: string;
  readonly chatTemplate?: string;
  readonly generationConfig: 'auto' | 'none';
}

/** Adds `[model]`, the engine's flags and those of text. */
export function addLLMFlags(command: Command): Command {
  return addEngineFlags(command)
    .option('--tokenizer <folder>', "folder with tokenizer.json (default: the model's)")
    .option('--chat-template <file>', "Jinja file, or its text, instead of the model's template")
    .addOption(
      new Option(
        '--generation-config <source>',
        "none: no sampling defaults from the model's generation_config.json",
      )
        .choices(['auto', 'none'])
        .default('auto'),
    );
}

/** Options of `LLM.load` for a model. */
function llmOptions(
  model: string,
  flags: LLMFlags,
): { readonly model: string; readonly options: LoadOptions } {
  const { model: resolved, ...engine } = engineConfig(model, flags);
  const options: LoadOptions = {
    ...engine,
    generationConfig: flags.generationConfig,
    ...(flags.tokenizer === undefined ? {} : { tokenizer: flags.tokenizer }),
    ...(flags.chatTemplate === undefined ? {} : { chatTemplate: readTemplate(flags.chatTemplate) }),
  };
  return { model: resolved, options };
}

/** Loads the model that the flags ask for, with a progress bar on a terminal. */
export async function loadLLM(model: string, flags: LLMFlags, more: LoadOptions = {}): Promise<LLM> {
  const { LLM } = await import('../llm/llm.ts');
  const { model: resolved, options } = llmOptions(model, flags);
  const llm = await LLM.load(resolved, { ...options, ...more, onProgress: progressBar('loading') });
  const { maxModelLen, shortenedFrom } = llm.engine.info;
  if (shortenedFrom !== null) console.error(shortContext(maxModelLen, shortenedFrom));
  return llm;
}

function shortContext(maxModelLen: number, shortenedFrom: number): string {
  const causes = '--kv-cache-memory-bytes or --memory-utilization allow no more';
  return `the context holds ${maxModelLen} tokens instead of the model's ${shortenedFrom}: ${causes}`;
}

/** A template itself holds Jinja's braces; anything else is a file. */
function readTemplate(fileOrText: string): string {
  if (fileOrText.includes('{{') || fileOrText.includes('{%')) return fileOrText;
  if (existsSync(fileOrText)) return readFileSync(fileOrText, 'utf8');
  const message = `--chat-template: there is no file ${fileOrText}`;
  throw new NeedletailError('invalid_request', message, { param: 'chat-template' });
}
