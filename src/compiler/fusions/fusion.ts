// What a fusion rule answers.
import type { Node } from '../../ir/graph.ts';
import type { GraphIndex } from '../graph-index.ts';

/** `fused` computes what the nodes of `replaces` did, under the same output values, and stands where `at` stood. */
export interface Fusion {
  readonly replaces: readonly Node[];
  readonly at: Node;
  readonly fused: Node;
}

/** Looks for its pattern at one node (the one it names in its own comment); null if it is not there. */
export type FusionRule = (node: Node, index: GraphIndex) => Fusion | null;
