// The page at `/`: static files without anything from elsewhere.
import type { FastifyInstance } from 'fastify';
import { readFile } from 'node:fs/promises';

const FOLDER = new URL('../../../web/', import.meta.url);

const FILES = [
  { path: '/', name: 'index.html', type: 'text/html; charset=utf-8' },
  { path: '/web/page.css', name: 'page.css', type: 'text/css; charset=utf-8' },
  { path: '/web/page.js', name: 'page.js', type: 'text/javascript; charset=utf-8' },
] as const;

/** Nothing is loaded or sent but from and to this server, and no other site may frame the page. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export function addPageRoutes(app: FastifyInstance): void {
  for (const { path, name, type } of FILES) {
    app.get(path, async (_request, reply) => {
      reply.header('content-type', type).header('content-security-policy', POLICY);
      reply.header('x-content-type-options', 'nosniff').header('cache-control', 'no-cache');
      return readFile(new URL(name, FOLDER));
    });
  }
}
