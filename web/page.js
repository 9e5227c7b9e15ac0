// The page's behaviour: a streamed chat over /v1/chat/completions, and /stats drawn once a second.

const POLL_MS = 1000;
const CHART_POINTS = 60;

const element = (id) => document.getElementById(id);
const prompt = element('prompt');
const messageList = element('messages');

/** The conversation as the API takes it. */
let messages = [];
/** Set while an answer comes. */
let answering = null;

element('form').addEventListener('submit', (event) => {
  event.preventDefault();
  const content = prompt.value.trim();
  if (content === '' || answering) return;
  prompt.value = '';
  void ask(content);
});

prompt.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element('form').requestSubmit();
});

document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') answering?.abort();
});
element('stop').addEventListener('click', () => answering?.abort());
element('reset').addEventListener('click', () => {
  answering?.abort();
  messages = [];
  messageList.replaceChildren();
  prompt.focus();
});

async function ask(content) {
  const conversation = [...messages, { role: 'user', content }];
  messages = conversation;
  element('hint')?.remove();
  showMessage('user').text.textContent = content;
  const answer = showMessage('assistant');
  answering = new AbortController();
  setBusy(answer, true);
  const startMs = performance.now();
  const result = await readAnswer(conversation, answering.signal, (text) => {
    answer.text.textContent += text;
    scrollToEnd();
  });
  answering = null;
  setBusy(answer, false);
  describe(answer.note, result, performance.now() - startMs);
  // What was answered stays in the conversation; a question without an answer does not.
  if (messages !== conversation) return;
  const text = answer.text.textContent;
  messages =
    text === '' ? conversation.slice(0, -1) : [...conversation, { role: 'assistant', content: text }];
}

/** Hands over each piece of text; resolves to `{ usage, finishReason, error }`, of which some may be missing. */
async function readAnswer(conversation, signal, onText) {
  const result = {};
  try {
    const response = await fetch('/v1/chat/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        messages: conversation,
        ...settings(),
        stream: true,
        stream_options: { include_usage: true },
      }),
      signal,
    });
    if (!response.ok) return { error: await errorText(response) };
    for await (const event of events(response.body)) {
      if (event.error) return { ...result, error: event.error.message };
      const [choice] = event.choices;
      if (choice?.delta.content) onText(choice.delta.content);
      result.finishReason = choice?.finish_reason ?? result.finishReason;
      result.usage = event.usage ?? result.usage;
    }
    return result;
  } catch (error) {
    return { ...result, error: signal.aborted ? 'stopped' : `the connection failed: ${error.message}` };
  }
}

/** Fields that are left empty are the server's to decide. */
function settings() {
  const [temperature, maxTokens] = ['temperature', 'max-tokens'].map((id) => element(id).valueAsNumber);
  return {
    ...(Number.isNaN(temperature) ? {} : { temperature }),
    ...(Number.isNaN(maxTokens) ? {} : { max_completion_tokens: maxTokens }),
  };
}

async function errorText(response) {
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `the server answered ${response.status}`;
}

/** The events of a response's body as JSON, up to [DONE]. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (pending + value).split('\n\n');
    pending = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, '');
      if (data === '[DONE]') return;
      yield JSON.parse(data);
    }
  }
}

function showMessage(role) {
  const box = document.createElement('article');
  box.className = `message ${role}`;
  box.setAttribute('aria-label', role === 'user' ? 'You' : 'Model');
  const text = document.createElement('p');
  text.className = 'text';
  const note = document.createElement('p');
  note.className = 'note';
  note.hidden = true;
  box.append(text, note);
  messageList.append(box);
  scrollToEnd();
  return { box, text, note };
}

function describe(note, { usage, finishReason, error }, ms) {
  const seconds = ms / 1000;
  const parts = [];
  if (usage)
    parts.push(
      `${usage.completion_tokens} tokens in ${seconds.toFixed(1)} s`,
      `${(usage.completion_tokens / seconds).toFixed(0)} tokens/s`,
    );
  if (finishReason === 'length') parts.push('cut off at its longest');
  if (error) parts.push(error);
  note.textContent = parts.join(' · ');
  note.classList.toggle('failed', Boolean(error) && error !== 'stopped');
  note.hidden = parts.length === 0;
  scrollToEnd();
}

function setBusy(answer, isBusy) {
  answer.box.classList.toggle('busy', isBusy);
  messageList.setAttribute('aria-busy', String(isBusy));
  element('send').hidden = isBusy;
  element('stop').hidden = !isBusy;
}

function scrollToEnd() {
  messageList.scrollTop = messageList.scrollHeight;
}

let last = null;
const rates = new Array(CHART_POINTS).fill(0);

async function poll() {
  if (document.hidden) return;
  try {
    const response = await fetch('/stats');
    if (!response.ok) throw new Error(await errorText(response));
    draw(await response.json());
    showState('up', 'ready');
  } catch (error) {
    showState('down', error.message);
    last = null;
  }
}

function draw(stats) {
  element('model').textContent =
    `${stats.model} · ${stats.device} · ${stats.recipe} · context ${stats.max_model_len} tokens`;
  element('running').textContent = stats.running;
  element('waiting').textContent = stats.waiting;
  element('kv-cache').value = stats.kv_cache_usage;
  element('kv-cache-text').textContent = `${(100 * stats.kv_cache_usage).toFixed(1)} %`;
  if (last) drawRates(stats, (stats.time_ms - last.time_ms) / 1000);
  last = stats;
  element('requests').replaceChildren(...stats.requests.map(requestRow));
}

/** An engine that was started anew counts from 0. */
function drawRates(stats, seconds) {
  const rate = (total) => Math.max(0, stats[total] - last[total]) / seconds;
  const generation = rate('generated_tokens');
  element('generation-rate').textContent = generation.toFixed(0);
  element('prompt-rate').textContent = rate('prompt_tokens').toFixed(0);
  rates.push(generation);
  rates.shift();
  const top = Math.max(1, ...rates);
  const points = rates.map(
    (value, i) => `${((60 * i) / (CHART_POINTS - 1)).toFixed(1)},${(19 - (18 * value) / top).toFixed(1)}`,
  );
  element('chart').firstElementChild.setAttribute('points', points.join(' '));
}

function requestRow({ id, prompt_tokens, generated_tokens, age_ms }) {
  const row = document.createElement('tr');
  for (const text of [id, prompt_tokens, generated_tokens, `${(age_ms / 1000).toFixed(1)} s`])
    row.insertCell().textContent = text;
  return row;
}

/** Announced only when it changes. */
function showState(className, text) {
  const state = element('state');
  state.className = className;
  if (state.textContent !== text) state.textContent = text;
}

void poll();
setInterval(() => void poll(), POLL_MS);
