// The files of a checkpoint that describe its tokenizer: tokenizer.json, tokenizer_config.json and chat templates.
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject, type JsonObject, readJsonFile, readTextFile } from '../util/json-file.ts';

const MAX_TOKENIZER_BYTES = 256 * 2 ** 20;
const MAX_CONFIG_BYTES = 16 * 2 ** 20;
const MAX_TEMPLATE_BYTES = 2 ** 20;
const OTHER_FORMS = ['tokenizer.model', 'spiece.model', 'vocab.json', 'merges.txt', 'vocab.txt'];

export interface TokenizerFiles {
  /** tokenizer.json as parsed. */
  readonly tokenizer: JsonObject;
  /** tokenizer_config.json over special_tokens_map.json; empty if there is neither. */
  readonly config: JsonObject;
  /** Chat templates by name; most checkpoints have none or just `default`. */
  readonly templates: ReadonlyMap<string, string>;
}

/** @throws NeedletailError `bad_checkpoint` naming the file that is missing or damaged. */
export async function readTokenizerFiles(directory: string): Promise<TokenizerFiles> {
  const tokenizer = await readObject(directory, 'tokenizer.json', MAX_TOKENIZER_BYTES);
  if (tokenizer === null) throw await noTokenizer(directory);
  // Older checkpoints name their special tokens in a file of their own.
  const specialTokens = await readObject(directory, 'special_tokens_map.json', MAX_CONFIG_BYTES);
  const ownConfig = await readObject(directory, 'tokenizer_config.json', MAX_CONFIG_BYTES);
  const config = { ...specialTokens, ...ownConfig };
  return { tokenizer, config, templates: await readTemplates(directory, config) };
}

/** Special tokens that tokenizer_config.json names, by role: `bos_token` → `<s>`. */
export function namedSpecialTokens(config: JsonObject): Map<string, string> {
  const tokens = new Map<string, string>();
  for (const [key, value] of Object.entries(config)) {
    const content = key.endsWith('_token') ? tokenContent(value) : null;
    if (content !== null) tokens.set(key, content);
  }
  return tokens;
}

/** Further special tokens, which have no role of their own. */
export function extraSpecialTokens(config: JsonObject): string[] {
  const lists = [config['additional_special_tokens'], config['extra_special_tokens']];
  return lists
    .flatMap((list) =>
      isJsonObject(list) ? Object.values(list) : Array.isArray(list) ? (list as unknown[]) : [],
    )
    .map(tokenContent)
    .filter((content) => content !== null);
}

/** A token is written as a string or as an object with its `content`. */
function tokenContent(value: unknown): string | null {
  const content = isJsonObject(value) ? value['content'] : value;
  return typeof content === 'string' && content !== '' ? content : null;
}

function readObject(directory: string, name: string, maxBytes: number): Promise<JsonObject | null> {
  return readJsonFile(path.join(directory, name), { code: 'bad_checkpoint', maxBytes });
}

/** Later sources replace templates of the same name: tokenizer_config.json, chat_template.json, *.jinja. */
async function readTemplates(directory: string, config: JsonObject): Promise<Map<string, string>> {
  const templates = templatesOf(config['chat_template']);
  const legacy = await readObject(directory, 'chat_template.json', MAX_CONFIG_BYTES);
  for (const [name, source] of templatesOf(legacy?.['chat_template'])) templates.set(name, source);
  for (const [name, file] of await templateFiles(directory)) {
    const source = await readTextFile(file, { code: 'bad_checkpoint', maxBytes: MAX_TEMPLATE_BYTES });
    if (source !== null) templates.set(name, source);
  }
  return templates;
}

/** A single template is a string; named ones are a list of `{name, template}` or an object. */
function templatesOf(value: unknown): Map<string, string> {
  if (typeof value === 'string') return new Map([['default', value]]);
  const entries: unknown[][] = Array.isArray(value)
    ? value.filter(isJsonObject).map((entry) => [entry['name'], entry['template']])
    : Object.entries(isJsonObject(value) ? value : {});
  return new Map(
    entries.filter((entry): entry is [string, string] => entry.every((part) => typeof part === 'string')),
  );
}

/** chat_template.jinja is the default; additional_chat_templates/NAME.jinja are the others. */
async function templateFiles(directory: string): Promise<[name: string, file: string][]> {
  const folder = path.join(directory, 'additional_chat_templates');
  const names = await readdir(folder).catch(() => []);
  const additional = names.filter((name) => name.endsWith('.jinja'));
  return [
    ['default', path.join(directory, 'chat_template.jinja')],
    ...additional.map((name): [string, string] => [name.slice(0, -'.jinja'.length), path.join(folder, name)]),
  ];
}

/** Other forms of a tokenizer (SentencePiece's model, vocab.json with merges.txt) are converted by transformers. */
async function noTokenizer(directory: string): Promise<NeedletailError> {
  const names = await readdir(directory).catch((): string[] => []);
  const others = OTHER_FORMS.filter((name) => names.includes(name));
  const found = others.length > 0 ? `, only ${others.join(' and ')}, which cannot be read as it is` : '';
  return new NeedletailError(
    'bad_checkpoint',
    `${directory}: there is no tokenizer.json${found}; write one with transformers ` +
      '(AutoTokenizer.from_pretrained(…).save_pretrained(…)), or send token ids and start with --skip-tokenizer-init',
  );
}
