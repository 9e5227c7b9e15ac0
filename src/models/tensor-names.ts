// What published checkpoints do to tensors' names: prefixes left out, a shared table under another name, buffers.

/**
 * Names of a tensor: the canonical one, and without the inner model's `prefix`. A shared token table may be stored under
 * the name of the head instead.
 */
export function publishedNames(
  prefix: string,
  embedding: string,
  head: string,
): (tensor: string) => readonly string[] {
  return (tensor) => {
    const short = tensor.startsWith(`${prefix}.`) ? [tensor.slice(prefix.length + 1)] : [];
    return [tensor, ...short, ...(tensor === `${embedding}.weight` ? [`${head}.weight`] : [])];
  };
}

/** Frequencies that old checkpoints carry along; they follow from the config. */
export function isRotaryBuffer(tensor: string): boolean {
  return tensor.endsWith('.inv_freq');
}

/** Causal masks and their fill values. */
export function isMaskBuffer(tensor: string): boolean {
  return /\.(attn|attention|self_attention)\.(bias|masked_bias)$/.test(tensor);
}
