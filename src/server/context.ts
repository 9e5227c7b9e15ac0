// What every route of one server shares.
import type { LLM } from '../llm/llm.ts';
import type { HttpActivity } from './activity.ts';
import type { InFlightRequests } from './in-flight.ts';
import type { Metrics } from './metrics.ts';

export interface ServerContext {
  readonly llm: LLM;
  readonly servedModelNames: readonly string[];
  readonly metrics: Metrics;
  readonly inFlight: InFlightRequests;
  readonly activity: HttpActivity;
  /** When the server started, in Unix seconds. */
  readonly created: number;
}
