// Collects the microphone's samples and hands them on in blocks of 80 ms.
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(0.08 * sampleRate));
    this.filled = 0;
  }

  process([channels]) {
    const samples = channels[0];
    if (!samples) return true;
    for (let start = 0; start < samples.length;) {
      const part = samples.subarray(start, start + this.block.length - this.filled);
      this.block.set(part, this.filled);
      this.filled += part.length;
      start += part.length;
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
