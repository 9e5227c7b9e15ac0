import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { type ChatMessage, ChatTemplate, type RenderOptions } from './chat-template.ts';

const DATA = process.env['NEEDLETAIL_DATA'];
const NOW = new Date(2025, 2, 9, 14, 5, 7);
const HELLO: ChatMessage[] = [{ role: 'user', content: 'Hello' }];

function render(source: string, messages = HELLO, options: Partial<RenderOptions> = {}): string {
  const specialTokens = new Map([
    ['bos_token', '<s>'],
    ['eos_token', '</s>'],
  ]);
  return new ChatTemplate(source).render(messages, {
    addGenerationPrompt: true,
    specialTokens,
    now: NOW,
    ...options,
  });
}

describe('a template', () => {
  it.each([
    ['special tokens', '{{ bos_token }}x{{ eos_token }}', '<s>x</s>'],
    ['the generation prompt', '{% if add_generation_prompt %}go{% endif %}', 'go'],
    ['no tools as none', '{% if tools is none %}none{% endif %}', 'none'],
    [
      'blocks on lines of their own',
      '{% if true %}\n  {% if true %}\nx\n  {% endif %}\n{% endif %}\n',
      'x\n',
    ],
    [
      'loop controls',
      '{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}',
      '012',
    ],
    [
      'namespaces',
      '{% set n = namespace(x=1) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}',
      '4',
    ],
    ['undefined text as empty', '[{{ messages[0].name | trim }}]{{ nothing | length }}', '[]0'],
    ['Unicode in JSON', '{{ {"a": "é你"} | tojson }}', '{"a": "é你"}'],
    ['descending ranges', '{{ range(5, 0, -2) | tojson }}{{ range(1, 0) | tojson }}', '[5, 3, 1][]'],
    ['the date', '{{ strftime_now("%d %b %Y, %-d %B %y, %A %a %H:%M:%S %I %p %% %Q") }}', DATE],
  ])('gets %s', (_, source, expected) => {
    expect(render(source)).toBe(expected);
  });

  it('gets variables of the request', () => {
    const options = { kwargs: { enable_thinking: false }, tools: [{ name: 'f' }], documents: ['d'] };
    const source = '{{ enable_thinking }} {{ tools[0].name }} {{ documents | length }}';
    expect(render(source, HELLO, options)).toBe('false f 1');
  });

  it('cannot have its own names overruled by the request', () => {
    const kwargs = { add_generation_prompt: false, namespace: 1 };
    expect(render('{{ add_generation_prompt }}{{ namespace(x=2).x }}', HELLO, { kwargs })).toBe('true2');
  });

  it('may be rendered many times', () => {
    const template = new ChatTemplate('{% set x = messages | length %}{{ x }}');
    const options = { addGenerationPrompt: true, specialTokens: new Map<string, string>() };
    expect([1, 2, 3].map(() => template.render(HELLO, options))).toEqual(['1', '1', '1']);
  });

  it('with a thousand messages is no burden', () => {
    const source =
      '{% for m in messages %}{% if m.role == "user" %}<|{{ m.role }}|>{{ m.content | trim }}{% endif %}{% endfor %}';
    const messages = Array.from({ length: 1000 }, () => HELLO[0]);
    expect(render(source, messages)).toHaveLength(1000 * '<|user|>Hello'.length);
  });
});

const DATE = '09 Mar 2025, 9 March 25, Sunday Sun 14:05:07 02 PM % %Q';

describe('a template that fails', () => {
  const errorOf = (source: string, messages = HELLO) => {
    try {
      render(source, messages);
    } catch (error) {
      return error as { code: string; param: string; message: string };
    }
    throw new Error('it did not fail');
  };

  it('says so in its own words', () => {
    expect(errorOf('{{ raise_exception("Roles must alternate") }}')).toMatchObject({
      code: 'invalid_request',
      param: 'messages',
      message: 'Roles must alternate',
    });
  });

  it.each([
    ['{{ messages | magic }}', /cannot render these messages: Unknown ArrayValue filter: magic/],
    ['{{ nothing() }}', /cannot render these messages: Cannot call something that is not a function/],
    ['{% for x in 3 %}{% endfor %}', /cannot render these messages: Expected iterable/],
    ['{{ range(1, 2, 0) }}', /range\(\) step must not be zero/],
  ])("%s is the request's fault", (source, message) => {
    expect(errorOf(source)).toMatchObject({ code: 'invalid_request', param: 'messages' });
    expect(errorOf(source).message).toMatch(message);
  });

  it.each(['{% if %}', '{{ ', '{% for x in %}', '{% endfor %}', `{{ ${'('.repeat(50_000)} }}`])(
    'to be parsed (%#) is refused at once',
    (source) => {
      expect(errorOf(source)).toMatchObject({ code: 'unprocessable' });
      expect(errorOf(source).message).toMatch(/cannot be parsed/);
    },
  );

  const DOUBLE =
    '{% set n = namespace(x=START) %}{% for i in range(60) %}{% set n.x = n.x OP n.x %}{% endfor %}{{ n.x }}';
  it.each([
    [
      'loops for long',
      '{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}',
      /too costly/,
    ],
    [
      'loops over nothing',
      '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}',
      /too costly/,
    ],
    ['counts to a billion', '{% for i in range(1000000000) %}{% endfor %}', /range\(\) makes more than/],
    ['counts to nowhere', '{{ range(0, 1, 0.0000000001) }}', /range\(\) makes more than/],
    ['makes text explode', DOUBLE.replace('START', '"ab"').replace('OP', '~'), /a text has more than/],
    ['makes lists explode', DOUBLE.replace('START', '[1]').replace('OP', '+'), /a list has more than/],
    ['calls itself', '{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}', /cannot render|too costly/],
    ['looks into itself', '{% set n = namespace() %}{% set n.n = n %}{{ n | tojson }}', /call stack/],
    ['indents without end', '{{ messages | tojson(indent=1000000000) }}', /Invalid string length/],
  ])('because it %s does not stall the server', (_, source, message) => {
    expect(errorOf(source)).toMatchObject({ code: 'invalid_request' });
    expect(errorOf(source).message).toMatch(message);
  });
});

interface Rendered {
  readonly cases: Record<
    string,
    { messages: ChatMessage[]; add_generation_prompt: boolean; tools?: unknown[] }
  >;
  readonly rendered: Record<string, Record<string, { text?: string; error?: string }>>;
}

describe.skipIf(!DATA)('published templates (in the folder NEEDLETAIL_DATA)', () => {
  const fixture = new URL('../../test/fixtures/chat-templates/rendered.json', import.meta.url);
  const { cases, rendered } = JSON.parse(readFileSync(fixture, 'utf8')) as Rendered;
  const all = Object.entries(rendered).flatMap(([name, byCase]) =>
    Object.entries(byCase).map(([chat, expected]) => ({ name, chat, ...expected })),
  );

  it.each(all)('$name renders $chat as Jinja does', ({ name, chat, text, error }) => {
    const source = readFileSync(path.join(DATA!, 'chat-templates', `${name}.jinja`), 'utf8');
    const { messages, add_generation_prompt: addGenerationPrompt, tools } = cases[chat];
    const result = () => render(source, messages, { addGenerationPrompt, tools });
    if (text !== undefined) expect(result()).toBe(text);
    else expect(result).toThrow(error!.includes('NoneType') ? /NullValue/ : error);
  });
});
