// Drives ConvNetJS' `Trainer` on a net that holds one parameter; its buffers are doubles.
"use strict";

const { framework, main } = require("./protocol.js");
const { Trainer } = framework("convnetjs");
const { version } = framework("convnetjs/package.json");

class ConvNetJS {
  constructor(given) {
    given.refuseUnless({ dtype: "float64", nesterov: false, dampening: 0 });
    this.rounded = {};
    this.params = given.start();
    this.grads = new Float64Array(this.params.length);
    const net = {
      forward: () => {},
      backward: () => 0,
      getParamsAndGrads: () => [{ params: this.params, grads: this.grads }],
    };
    this.trainer = new Trainer(net, {
      method: "sgd",
      learning_rate: given.lr[0],
      momentum: given.momentum[0],
      l2_decay: given.weight_decay,
    });
  }

  step(gradient, lr, momentum) {
    Object.assign(this.trainer, { learning_rate: lr, momentum });
    this.grads.set(gradient);
    this.trainer.train(null, null);
  }

  parameter() {
    return this.params;
  }

  buffer() {
    return this.trainer.gsum[0] ?? null;
  }
}

main({ convnetjs: version }, { convnetjs: (given) => new ConvNetJS(given) });
