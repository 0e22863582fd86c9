"use strict";
(() => {
  const told = JSON.parse(document.getElementById("model").textContent);
  const [height, width, channels] = told.shape;
  const at = (id) => document.getElementById(id);
  const state = at("state"), seen = at("seen"), board = at("board");
  seen.width = width;
  seen.height = height;
  const small = seen.getContext("2d", { willReadFrequently: true });
  let source = null; // what was given last: an image, or the board

  const say = (text, wrong = false) => {
    state.textContent = text;
    state.className = wrong ? "wrong" : "";
  };

  // --- the network ---------------------------------------------------------------------------

  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = told.runtime || new URL("./", location.href).href;
  const loading = ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  loading.then(
    () => say("Ready."),
    (error) => say(`The network cannot be loaded: ${error.message}`, true),
  );

  /* Pixels of the small canvas in [0, 1], channels first. */
  const pixels = () => {
    const bytes = small.getImageData(0, 0, width, height).data;
    const area = height * width, x = new Float32Array(channels * area);
    const inverted = at("invert").checked;
    for (let i = 0; i < area; i++) {
      const rgb = [bytes[4 * i] / 255, bytes[4 * i + 1] / 255, bytes[4 * i + 2] / 255];
      const values = channels === 3 ? rgb : [0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]];
      values.forEach((value, c) => { x[c * area + i] = inverted ? 1 - value : value; });
    }
    return x;
  };

  const classify = async () => {
    const session = await loading;
    const input = new ort.Tensor("float32", pixels(), [1, channels, height, width]);
    const begin = performance.now();
    const outputs = await session.run({ [session.inputNames[0]]: input });
    show(outputs[session.outputNames[0]].data, performance.now() - begin);
  };

  const show = (probabilities, milliseconds) => {
    const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    const rows = order.slice(0, 5).map((index) => {
      const row = document.createElement("li"), share = probabilities[index];
      row.dataset.probability = share;
      const cells = ["name", "bar", "share"].map((kind) => {
        const cell = document.createElement("span");
        cell.className = kind;
        return row.appendChild(cell);
      });
      cells[0].textContent = told.classes[index];
      cells[1].style.width = `${100 * share}%`;
      cells[2].textContent = `${(100 * share).toFixed(1)} %`;
      return row;
    });
    at("top").replaceChildren(...rows);
    at("took").textContent = `${milliseconds.toFixed(1)} ms`;
    at("found").hidden = false;
  };

  const look = () => {
    if (!source) return;
    source === board ? shrinkDrawing() : shrinkImage(source);
    classify().catch((error) => say(`That did not work: ${error.message}`, true));
  };

  // --- an image --------------------------------------------------------------------------------

  /* Scaled until it covers the input, and cut around its middle, as the training images were. */
  const shrinkImage = (image) => {
    const factor = Math.max(width / image.width, height / image.height);
    const w = image.width * factor, h = image.height * factor;
    small.imageSmoothingQuality = "high";
    small.clearRect(0, 0, width, height);
    small.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  };

  const take = async (file) => {
    if (!file) return;
    try {
      source = await createImageBitmap(file, { imageOrientation: "from-image" });
    } catch {
      say(`${file.name || "That"} is no image that this browser can read.`, true);
      return;
    }
    say(file.name || "");
    look();
  };

  const drop = at("drop");
  at("file").addEventListener("change", (event) => take(event.target.files[0]));
  for (const name of ["dragover", "dragleave", "drop"])
    addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files[0]);
    });
  addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  at("inverting").hidden = channels !== 1;
  at("invert").addEventListener("change", look);

  // --- a drawing -------------------------------------------------------------------------------

  if (!told.draw) return;
  at("drawing").hidden = false;
  const pen = board.getContext("2d", { willReadFrequently: true });
  const clear = () => {
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, board.width, board.height);
    if (source === board) source = null;
    at("found").hidden = true;
  };
  clear();
  at("clear").addEventListener("click", clear);
  pen.strokeStyle = "#fff";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = board.width / Math.min(12, width);

  let last = null;
  const place = (event) => {
    const box = board.getBoundingClientRect();
    return [(event.clientX - box.left) * (board.width / box.width),
            (event.clientY - box.top) * (board.height / box.height)];
  };
  const draw = (event) => {
    if (!last) return;
    const here = place(event);
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...here);
    pen.stroke();
    last = here;
  };
  board.addEventListener("pointerdown", (event) => {
    board.setPointerCapture(event.pointerId);
    last = place(event);
    draw(event);
  });
  board.addEventListener("pointermove", draw);
  board.addEventListener("pointerup", () => {
    last = null;
    source = board;
    at("invert").checked = false;
    look();
  });
  board.addEventListener("pointercancel", () => { last = null; });

  /* As digits of data sets are: the ink fills most of the image. */
  const shrinkDrawing = () => {
    const bytes = pen.getImageData(0, 0, board.width, board.height).data;
    let left = board.width, top = board.height, right = -1, bottom = -1;
    for (let y = 0; y < board.height; y++)
      for (let x = 0; x < board.width; x++)
        if (bytes[4 * (y * board.width + x)] > 32) {
          left = Math.min(left, x);
          right = Math.max(right, x);
          top = Math.min(top, y);
          bottom = Math.max(bottom, y);
        }
    small.fillStyle = "#000";
    small.fillRect(0, 0, width, height);
    if (right < 0) return;
    const margin = Math.min(width, height) >= 20 ? 1 / 7 : 0;
    const w = right - left + 1, h = bottom - top + 1;
    const factor = Math.min(width * (1 - 2 * margin) / w, height * (1 - 2 * margin) / h);
    small.imageSmoothingQuality = "high";
    small.drawImage(board, left, top, w, h, (width - w * factor) / 2, (height - h * factor) / 2,
      w * factor, h * factor);
  };
})();
