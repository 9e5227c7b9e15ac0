// POST /tokenize and /detokenize: text or chats to token ids and back.
import type { FastifyInstance } from 'fastify';
import { parseOrThrow } from '../../llm/parse.ts';
import type { Tokenizer } from '../../tokenizer/tokenizer.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { ServerContext } from '../context.ts';
import { detokenizeRequest, type TokenizeRequest, tokenizeRequest } from '../protocol.ts';
import { checkModel } from '../request-params.ts';
import { chatOptions } from './chat.ts';

export function addTokenizeRoutes(app: FastifyInstance, context: ServerContext): void {
  const { llm, servedModelNames } = context;
  app.post('/tokenize', async ({ body }) => {
    const request = parseOrThrow(tokenizeRequest, body);
    checkModel(request.model, servedModelNames);
    const tokenizer = tokenizerOf(context);
    const tokens = Array.from(await encode(request, context, tokenizer));
    const texts = request.return_token_strs === true ? tokens.map((id) => tokenizer.tokenOf(id)) : null;
    return {
      count: tokens.length,
      max_model_len: llm.engine.info.maxModelLen,
      tokens,
      token_strs: texts,
    };
  });
  app.post('/detokenize', async ({ body }) => {
    const { model, tokens } = parseOrThrow(detokenizeRequest, body);
    checkModel(model, servedModelNames);
    llm.checkTokenIds(tokens, 'tokens');
    return { prompt: tokenizerOf(context).decode(tokens, { skipSpecialTokens: false }) };
  });
}

async function encode(
  request: TokenizeRequest,
  { llm }: ServerContext,
  tokenizer: Tokenizer,
): Promise<Int32Array> {
  if (request.messages) return (await llm.encodeChat(request.messages, chatOptions(request))).tokenIds;
  return tokenizer.encodeLong(request.prompt ?? '', { addSpecialTokens: request.add_special_tokens ?? true });
}

function tokenizerOf({ llm }: ServerContext): Tokenizer {
  if (llm.tokenizer !== null) return llm.tokenizer;
  throw new NeedletailError('unprocessable', 'this server was started without a tokenizer');
}
