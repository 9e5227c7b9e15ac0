// Chats: messages to a prompt through the checkpoint's template, or a prompt that goes on with the last message.
import { type ChatMessage, ChatTemplate, type RenderOptions } from '../tokenizer/chat-template.ts';
import type { ChatOptions, LengthOptions, Tokenizer } from '../tokenizer/tokenizer.ts';
import { NeedletailError } from '../util/errors.ts';

export type { ChatMessage };

export interface ChatPromptOptions {
  /** End with what makes the model answer (default: unless `continueFinalMessage`). */
  readonly addGenerationPrompt?: boolean | null | undefined;
  /** Leave the last message open, so that the model goes on with it. */
  readonly continueFinalMessage?: boolean | null | undefined;
  /** Further variables for the template, such as `enable_thinking`. */
  readonly templateKwargs?: Readonly<Record<string, unknown>> | null | undefined;
}

/** Renders chats with one model's templates. */
export class ChatRenderer {
  readonly #tokenizer: Tokenizer;
  readonly #override: ChatTemplate | null;
  #continuing: ContinuingTemplate | null = null;

  /** @param templateSource Jinja text instead of the checkpoint's own template */
  constructor(tokenizer: Tokenizer, templateSource: string | null) {
    this.#tokenizer = tokenizer;
    this.#override = templateSource === null ? null : new ChatTemplate(templateSource);
  }

  /**
   * @throws NeedletailError `invalid_request` or `unprocessable` where the template refuses or fails,
   * `context_length_exceeded` where the chat is certain to have more than `maxNumTokens`.
   */
  encode(
    messages: readonly ChatMessage[],
    { maxNumTokens = Infinity, ...options }: ChatPromptOptions & LengthOptions,
  ) {
    return this.#tokenizer.encodeChat(messages, { ...this.#templateOptions(options), maxNumTokens });
  }

  #templateOptions(options: ChatPromptOptions): ChatOptions {
    const continues = options.continueFinalMessage === true;
    const addGenerationPrompt = options.addGenerationPrompt ?? !continues;
    if (continues && addGenerationPrompt) throw bothEndings();
    const template = continues ? this.#continuingTemplate() : this.#override;
    return {
      addGenerationPrompt,
      kwargs: options.templateKwargs ?? {},
      ...(template === null ? {} : { template }),
    };
  }

  #continuingTemplate(): ContinuingTemplate {
    this.#continuing ??= new ContinuingTemplate((this.#override ?? this.#tokenizer.chatTemplate()).source);
    return this.#continuing;
  }
}

/** A template whose text ends where the last message's content does. */
class ContinuingTemplate extends ChatTemplate {
  override render(messages: readonly ChatMessage[], options: RenderOptions): string {
    const text = super.render(messages, options);
    const content = messages.at(-1)?.content;
    if (typeof content !== 'string') throw lostMessage();
    const trimmed = content.trim();
    const start = text.lastIndexOf(trimmed);
    if (start < 0) throw lostMessage();
    // Templates that trim the content lose its white space; the others keep it.
    const kept = text.startsWith(content.trimStart(), start) ? content.trimStart() : trimmed;
    return text.slice(0, start + kept.length);
  }
}

function bothEndings(): NeedletailError {
  return new NeedletailError(
    'invalid_request',
    'the last message can be continued or a new one begun: set only one of the two',
    { param: 'continueFinalMessage' },
  );
}

function lostMessage(): NeedletailError {
  return new NeedletailError(
    'unprocessable',
    'the chat template changes the last message, so that it cannot be continued',
    { param: 'continueFinalMessage' },
  );
}
