// The protocol of ../protocol.py for a driver in JavaScript.
"use strict";

const { readFileSync } = require("node:fs");
const { createRequire } = require("node:module");
const path = require("node:path");

// The environment's own require.
const framework = createRequire(path.join(path.resolve(process.env.PREFIX), "driver.js"));

class Refused extends Error {}

class Case {
  constructor(values) {
    Object.assign(this, { weight_decay: 0, dampening: 0, nesterov: false, gradients: null }, values);
    this.type = this.dtype === "float32" ? Float32Array : Float64Array;
  }

  start() {
    return this.type.from(this.p);
  }

  // The gradient of step t at p, computed in the case's dtype.
  gradient(t, p) {
    if (this.gradients !== null) return this.type.from(this.gradients[t]);
    const rounded = this.dtype === "float32" ? Math.fround : (x) => x;
    return this.type.from(p, (x, i) => this.curvature[i] * rounded(x - this.center[i]));
  }

  refuseUnless(constant) {
    for (const [name, value] of Object.entries(constant))
      if (this[name] !== value) throw new Refused(`${name} is always ${value} in this framework`);
  }
}

function drive(given, start) {
  const named = { name: given.name, dtype: given.dtype };
  const kept = { p: [], b: [] };
  let peer;
  try {
    peer = start(given);
    given.lr.forEach((lr, t) => {
      peer.step(given.gradient(t, peer.parameter()), lr, given.momentum[t]);
      kept.p.push(listed(peer.parameter(), given));
      const buffer = peer.buffer();
      kept.b.push(buffer === null ? null : listed(buffer, given));
    });
  } catch (error) {
    if (error instanceof Refused) return { ...named, refused: error.message };
    throw error;
  }
  return { ...named, ...kept, rounded: peer.rounded };
}

function listed(values, given) {
  if (!(values instanceof given.type)) throw new TypeError(`${given.name}: not of ${given.dtype}`);
  return Array.from(values);
}

function main(versions, rules) {
  const row = process.argv[2];
  if (!(row in rules)) throw new Error(`row must be one of ${Object.keys(rules)}, got ${row}`);
  console.log = console.warn = console.error; // what a framework prints is not a trajectory
  const cases = JSON.parse(readFileSync(0, "utf8")).map((values) => drive(new Case(values), rules[row]));
  process.stdout.write(JSON.stringify({ versions, cases }) + "\n");
}

module.exports = { Refused, framework, main };
