// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Compiles Token.sol and Pair.sol into Token.hex and Pair.hex: the creation bytecode,
// hex without 0x, one line. With --check it writes nothing and fails if the files that
// are there differ from what the compiler says. How to call it: see README.md.
"use strict";

const fs = require("fs");
const path = require("path");
const solc = require("solc");

const VERSION = "0.8.37";
const CONTRACTS = ["Token", "Pair"];

const settings = {
  optimizer: { enabled: true, runs: 200 },
  evmVersion: "shanghai",
  metadata: { bytecodeHash: "none" },
  outputSelection: { "*": { "*": ["evm.bytecode.object"] } },
};

function compile(name) {
  const file = `${name}.sol`;
  const content = fs.readFileSync(path.join(__dirname, file), "utf8");
  const input = { language: "Solidity", sources: { [file]: { content } }, settings };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  const complaints = output.errors || [];
  for (const { formattedMessage } of complaints) console.error(formattedMessage);
  if (complaints.length > 0) process.exit(1);
  return output.contracts[file][name].evm.bytecode.object;
}

if (!solc.version().startsWith(`${VERSION}+`)) {
  console.error(`solc ${VERSION} is wanted, this is ${solc.version()}`);
  process.exit(1);
}
const check = process.argv.includes("--check");
let differing = 0;
for (const name of CONTRACTS) {
  const target = path.join(__dirname, `${name}.hex`);
  const text = `${compile(name)}\n`;
  if (!check) {
    fs.writeFileSync(target, text);
  } else if (!fs.existsSync(target) || fs.readFileSync(target, "utf8") !== text) {
    console.error(`${name}.hex is not what ${name}.sol compiles to`);
    differing += 1;
  }
  console.log(`${name}: ${(text.length - 1) / 2} bytes of creation code`);
}
process.exit(differing === 0 ? 0 : 1);
