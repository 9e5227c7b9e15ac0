// Finds a key that a JSON object holds twice: JSON.parse keeps the last value and says nothing.

/** The first top-level key of the JSON object `text` that occurs again, or null. `text` must be valid JSON. */
export function duplicateKey(text: string): string | null {
  const keys = new Set<string>();
  let depth = 0;
  // Strings (with the colon that makes them keys) and brackets; what lies between them does not matter.
  for (const [token, string, colon] of text.matchAll(/("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|[{}[\]]/g)) {
    if (string === undefined) depth += token === '{' || token === '[' ? 1 : -1;
    else if (depth === 1 && colon !== undefined) {
      const key = JSON.parse(string) as string;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return null;
}
