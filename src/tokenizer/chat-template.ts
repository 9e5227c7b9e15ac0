// Chat templates: the Jinja that a checkpoint publishes, parsed once and rendered for each request.
import { NeedletailError } from '../util/errors.ts';
import { BoundedInterpreter, BudgetError, MAX_TEXT_LENGTH } from './bounded-interpreter.ts';
import { Environment, type JinjaEnvironment, type JinjaNode, parse, tokenize } from './jinja.ts';
import { strftime } from './strftime.ts';

/** Fields beyond `role` and `content` (name, tool_calls, …) reach the template as they are. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: unknown;
  readonly [field: string]: unknown;
}

export interface RenderOptions {
  /** End with what makes the model answer. */
  readonly addGenerationPrompt: boolean;
  /** By the name under which templates know them: `bos_token`, `eos_token`, … */
  readonly specialTokens: ReadonlyMap<string, string>;
  readonly tools?: readonly unknown[] | null | undefined;
  readonly documents?: readonly unknown[] | null | undefined;
  /** Further variables, such as `enable_thinking`. */
  readonly kwargs?: Readonly<Record<string, unknown>> | undefined;
  /** What `strftime_now` says; the present by default. */
  readonly now?: Date;
}

/** What `raise_exception` throws. */
class TemplateException extends Error {}

export class ChatTemplate {
  readonly source: string;
  readonly #program: JinjaNode;

  /** @throws NeedletailError `unprocessable` if the template is no valid Jinja. */
  constructor(source: string) {
    this.source = source;
    try {
      this.#program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    } catch (error) {
      throw new NeedletailError('unprocessable', `the chat template cannot be parsed: ${reasonOf(error)}`, {
        cause: error,
      });
    }
  }

  /**
   * @throws NeedletailError `invalid_request` (parameter `messages`) with the template's own words if it refuses the
   * messages, or saying what went wrong if it fails or exceeds the bounds of `bounded-interpreter.ts`.
   */
  render(messages: readonly ChatMessage[], options: RenderOptions): string {
    try {
      const environment = createEnvironment(messages, options);
      const text = new BoundedInterpreter(environment).run(this.#program).value as string;
      if (text.length > MAX_TEXT_LENGTH)
        throw new BudgetError(`it makes more than ${MAX_TEXT_LENGTH} characters`);
      return text;
    } catch (error) {
      throw renderError(error);
    }
  }
}

function createEnvironment(messages: readonly ChatMessage[], options: RenderOptions): JinjaEnvironment {
  const environment = new Environment();
  const variables = {
    ...globals(options.now),
    ...Object.fromEntries(options.specialTokens),
    messages,
    tools: options.tools ?? null,
    documents: options.documents ?? null,
    ...options.kwargs,
    add_generation_prompt: options.addGenerationPrompt,
  };
  // `namespace` is declared by the environment itself and may not be declared again.
  for (const [name, value] of Object.entries(variables))
    if (name !== 'namespace') environment.set(name, value);
  return environment;
}

/** What Hugging Face gives to chat templates beside Jinja's own names. */
function globals(now: Date | undefined): Record<string, unknown> {
  return {
    true: true,
    false: false,
    none: null,
    True: true,
    False: false,
    None: null,
    range: boundedRange,
    strftime_now: (format: string) => strftime(now ?? new Date(), format),
    raise_exception: (message: unknown) => {
      throw new TemplateException(String(message));
    },
  };
}

/** Python's `range`, refused where the list would not be allowed anyway. */
function boundedRange(start: number, stop?: number, step = 1): number[] {
  const [first, end] = typeof stop === 'number' ? [start, stop] : [0, start];
  if (step === 0) throw new Error('range() step must not be zero');
  const count = Math.max(0, Math.ceil((end - first) / step));
  if (!(count <= MAX_RANGE)) throw new BudgetError(`range() makes more than ${MAX_RANGE} elements`);
  return Array.from({ length: count }, (_, i) => first + i * step);
}

const MAX_RANGE = 100_000;

function renderError(error: unknown): NeedletailError {
  const options = { param: 'messages', cause: error };
  if (error instanceof TemplateException)
    return new NeedletailError('invalid_request', error.message, options);
  const what = error instanceof BudgetError ? 'is too costly to render' : 'cannot render these messages';
  return new NeedletailError('invalid_request', `the chat template ${what}: ${reasonOf(error)}`, options);
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
