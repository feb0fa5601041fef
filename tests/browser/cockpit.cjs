// The coordinator's page in Chromium, while shards are killed: what a person would see, waited for and asserted.
//
// node cockpit.cjs CHROMIUM FOLDER SHOTS: FOLDER has a chain of `lab generate` and takes addresses and logs; SHOTS takes
// the screenshots. Started by scripts/cockpit.sh.
'use strict';
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');

const [executablePath, folder, shots] = process.argv.slice(2);
const bin = (name) => path.join(__dirname, '../../target/release', name);
const WITHIN = 30_000;
const children = [];

function start(name, program, line) {
  const log = fs.openSync(path.join(folder, `${name}.log`), 'w');
  const child = spawn(bin(program), line, { stdio: ['ignore', log, log] });
  children.push(child);
  return child;
}

async function until(what, holds) {
  for (const end = Date.now() + WITHIN; Date.now() < end; await new Promise((done) => setTimeout(done, 20))) {
    const found = holds();
    if (found) return found;
  }
  throw new Error(`not within ${WITHIN} ms: ${what}`);
}

const assert = (is, what) => { if (!is) throw new Error(what); };
const written = (file) => () => fs.existsSync(file) && fs.readFileSync(file, 'utf8').trim();

async function main() {
  const [addresses, pages] = ['address', 'pages'].map((name) => path.join(folder, name));
  start('coordinator', 'coordinator', ['serve', '--genesis', path.join(folder, 'chain/genesis.json'), '--listen', '127.0.0.1:0',
    '--address-file', addresses, '--admin', '127.0.0.1:0', '--admin-address-file', pages]);
  const url = `http://${(await until('the coordinator serves', written(addresses))).split('\n')[0]}`;
  const page = `http://${(await until('the page is served', written(pages))).split(' ')[1]}/`;
  const shard = (id, more) => start(`shard-${id}`, 'executor-shard', ['--shard-id', String(id), '--threads', '2', '--coordinator', url,
    '--listen', '127.0.0.1:0', ...more]);
  const killed = shard(1, []);
  shard(2, []);
  // This one dies by itself with work in its hands.
  shard(3, ['--allow-faults', '--fault', 'exit@200']);

  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'] });
  const errors = [];
  const open = async (width, colorScheme) => {
    const tab = await (await browser.newContext({ viewport: { width, height: 900 }, colorScheme })).newPage();
    tab.setDefaultTimeout(WITHIN);
    tab.on('pageerror', (error) => errors.push(error.message));
    // 503 is how /readyz says that no shard is there yet.
    tab.on('console', (message) => message.type() === 'error' && !message.text().includes('503') && errors.push(message.text()));
    await tab.goto(page);
    await tab.waitForSelector('.shard[data-shard="2"]');
    return tab;
  };
  const [wide, narrow] = [await open(1280, 'light'), await open(390, 'dark')];
  for (const id of [1, 2, 3]) await wide.waitForSelector(`.shard.good[data-shard="${id}"]`);

  start('submit', 'coordinator', ['submit', '--coordinator', url, path.join(folder, 'chain/chain.rlp')]);
  await wide.waitForSelector('#blocks button');
  await wide.screenshot({ path: path.join(shots, 'cockpit-before.png'), fullPage: true });

  await wide.waitForSelector('.shard.bad[data-shard="3"]');
  await wide.waitForFunction(() => /Shard 3 was lost at .* with .* of block \d+: .*Shard [12](, [12])? did the work/.test(document.getElementById('trouble').textContent));
  const began = Date.now();
  killed.kill('SIGKILL');
  await wide.waitForSelector('.shard.bad[data-shard="1"]');
  const seen = Date.now() - began;
  await wide.screenshot({ path: path.join(shots, 'cockpit-during.png'), fullPage: true });
  await wide.waitForFunction(() => document.getElementById('trouble').textContent.includes('Shard 1 was lost'));
  // The page learns of it by an event. The usual time is some tenths of a second; the limit leaves room for a busy machine.
  assert(seen < 10_000, `a killed shard is shown after ${seen} ms`);

  // The block with the loss has a red bar, and an arrow to the shard that did its work; by keyboard alone.
  const show = wide.locator('#trouble li', { hasText: 'Shard 3 was lost' }).locator('button').first();
  await show.focus();
  await wide.keyboard.press('Enter');
  await wide.waitForSelector('#waterfall rect.lost');
  assert(await wide.locator('#waterfall path.flow').count() > 0, 'no arrow to the shard that did its work');
  const told = await wide.locator('#tries').textContent();
  assert(told.includes('lost: '), `the table does not say what was lost: ${told}`);
  await wide.waitForFunction(() => document.querySelector('#blocks tbody tr')?.textContent.startsWith('60'));
  await wide.screenshot({ path: path.join(shots, 'cockpit-after.png'), fullPage: true });

  await narrow.waitForFunction(() => document.querySelector('#blocks tbody tr')?.textContent.startsWith('60'));
  for (const tab of [wide, narrow]) {
    const [inner, outer] = await tab.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
    assert(inner <= outer, `the page is wider than the window: ${inner} > ${outer}`);
    const unnamed = await tab.evaluate(() => [...document.querySelectorAll('button, svg[role=img], section, [role=region]')]
      .filter((node) => !(node.getAttribute('aria-label') || node.getAttribute('aria-labelledby') || node.textContent.trim())).length);
    assert(unnamed === 0, `${unnamed} parts have no name for a screen reader`);
  }
  await narrow.screenshot({ path: path.join(shots, 'cockpit-narrow.png'), fullPage: true });
  assert(errors.length === 0, `the page has errors: ${errors.join('; ')}`);
  console.log(`a killed shard is shown after ${seen} ms; what the page says:\n${(await wide.locator('#trouble').innerText())}`);
  await browser.close();
}

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) {
  process.on(signal, () => {
    for (const child of children) child.kill('SIGKILL');
    process.exit(1);
  });
}
main().then(() => 0, (error) => {
  console.error(error);
  for (const name of fs.readdirSync(folder).filter((name) => name.endsWith('.log'))) {
    console.error(`---- the end of ${name} ----\n${fs.readFileSync(path.join(folder, name), 'utf8').split('\n').slice(-15).join('\n')}`);
  }
  return 1;
}).then((code) => {
  for (const child of children) child.kill('SIGKILL');
  process.exit(code);
});
