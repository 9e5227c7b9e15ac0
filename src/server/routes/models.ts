// GET /v1/models: the names under which this server's one model is known.
import type { FastifyInstance } from 'fastify';
import type { ServerContext } from '../context.ts';
import { checkModel } from '../request-params.ts';

export function addModelRoutes(app: FastifyInstance, context: ServerContext): void {
  const { servedModelNames } = context;
  app.get('/v1/models', async () => ({
    object: 'list',
    data: servedModelNames.map((name) => describeModel(name, context)),
  }));
  // Names may hold slashes.
  app.get<{ Params: { '*': string } }>('/v1/models/*', async ({ params }) =>
    describeModel(checkModel(params['*'], servedModelNames), context),
  );
}

function describeModel(id: string, { servedModelNames, created, llm }: ServerContext): object {
  const { maxModelLen, recipe, quality } = llm.engine.info;
  return {
    id,
    object: 'model',
    created,
    owned_by: 'needletail',
    root: servedModelNames[0],
    parent: null,
    max_model_len: maxModelLen,
    precision: recipe,
    quality: quality && {
      text: quality.text,
      perplexity: quality.perplexity,
      perplexity_delta: quality.perplexityDelta,
      baseline: quality.baseline,
    },
  };
}
