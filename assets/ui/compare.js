/* The compare pane: captions, modes, thumbnails, progress, errors and metrics around the two pictures. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;
  const MODES = [
    ["slider", "Slider", "Drag the divider (1)"],
    ["side", "Side by side", "Both pictures, same zoom (2)"],
    ["blink", "Blink", "Alternate in place (3)"],
    ["difference", "Difference", "Absolute difference on a fixed scale (4)"],
  ];
  const SPEEDS = [
    ["900", "slow"],
    ["450", "medium"],
    ["200", "fast"],
  ];
  const states = (QS.paneStates = QS.paneStates || new Map());

  function caption(letter) {
    const text = el("b"),
      detail = el("span");
    const node = el("div", { class: `qs-caption ${letter.toLowerCase()}` }, el("i", { text: letter }), text, detail);
    node.show = (side) => {
      node.hidden = !side;
      text.textContent = (side && side.caption) || "";
      detail.textContent = (side && side.detail) || "";
      node.title = [text.textContent, detail.textContent].filter(Boolean).join(" · ");
    };
    return node;
  }

  QS.mountCompare = (element, { props, trigger, watch }) => {
    const host = element.querySelector(".qs-root"),
      key = props.name || "compare";
    const state = states.get(key) || { value: {}, index: 0 };
    states.set(key, state);
    const captionA = caption("A"),
      captionB = caption("B"),
      metrics = QS.metricsStrip();
    const readout = el("div", { class: "qs-readout" }),
      thumbs = el("div", { class: "qs-thumbs", role: "listbox", "aria-label": "Pictures" });
    const label = el("div", { class: "qs-label" }),
      error = el("div", { class: "qs-error", role: "alert", hidden: true });
    const empty = el("div", { class: "qs-empty" });
    const publish = (event, more) => {
      Object.assign(state, more);
      props.value = { index: state.index, region: state.region || null, mode: view.view.mode, rev: (props.value || {}).rev };
      trigger(event, {});
    };
    const bar = QS.progressBar(() => publish("cancel"));
    const view = QS.compareView({
      onread: (at) => {
        readout.dataset.on = at ? "1" : "";
        readout.textContent = at
          ? `${at.x},${at.y}  A ${at.a.join(" ")}  B ${at.b.join(" ")}  difference ${at.difference}`
          : resting();
      },
      onregion: (region) => publish("region", { region: region && { ...region, index: state.index } }),
    });

    // Blinking runs by itself; holding b shows A in any mode.
    let timer = 0,
      speed = 450,
      running = true;
    const beat = () => {
      clearInterval(timer);
      if (view.view.mode === "blink" && running)
        timer = setInterval(() => (host.isConnected ? view.blink() : clearInterval(timer)), speed);
    };
    const playIcon = QS.button("pause", "Pause or play (space)", () => {
      running = !running;
      playIcon.replaceChildren(QS.icon(running ? "pause" : "play"));
      beat();
    });
    const speeds = el(
      "select",
      {
        "aria-label": "Blink speed",
        title: "Blink speed",
        onchange: () => {
          speed = Number(speeds.value);
          beat();
        },
      },
      ...SPEEDS.map(([value, text]) => el("option", { value, text, selected: value === "450" })),
    );
    const gains = QS.segmented(
      "Gain of the difference",
      [
        ["1", "×1"],
        ["4", "×4"],
        ["16", "×16"],
      ],
      "4",
      (value) => {
        view.gain(Number(value));
        scale();
      },
    );
    const modes = QS.segmented("How to compare", MODES, "slider", (mode) => setMode(mode));
    const scaleBar = el("div", { class: "qs-heatscale" }, el("span"), el("i"), el("span"), el("span", { class: "qs-heatnote" }));
    const blinkTools = el("div", { class: "qs-tools" }, playIcon, speeds),
      gainTools = el("div", { class: "qs-tools" }, gains);
    const head = el("div", { class: "qs-bar" }, modes, el("div", { class: "qs-spring" }), blinkTools, gainTools);
    const zoomTools = el(
      "div",
      { class: "qs-float qs-tools" },
      QS.button("minus", "Zoom out", () => view.zoomBy(1 / 1.5)),
      QS.button("plus", "Zoom in", () => view.zoomBy(1.5)),
      QS.button("fit", "Fit (double click)", () => view.fit()),
    );
    zoomTools.addEventListener("pointerdown", (event) => event.stopPropagation());
    zoomTools.addEventListener("dblclick", (event) => event.stopPropagation());
    view.stage.append(zoomTools, captionA, captionB, empty, scaleBar);
    const body = el(
      "div",
      { class: "qs-compare" },
      head,
      error,
      el("div", { class: "qs-stagebox" }, view.stage, bar),
      el("div", { class: "qs-underline" }, label, readout),
      thumbs,
      metrics,
    );
    host.replaceChildren(body);
    if (props.height) view.stage.style.height = typeof props.height === "number" ? `${props.height}px` : props.height;
    scaleBar.children[1].style.background = QS.gradient(QS.heatStops);

    const resting = () => {
      const difference = view.difference();
      return difference ? `difference: mean ${difference.mean.toFixed(1)}, largest ${difference.most} of 255` : "";
    };
    function scale() {
      const gain = view.view.gain,
        top = QS.heatTop(gain);
      scaleBar.children[0].textContent = "0";
      scaleBar.children[2].textContent = gain === 1 ? "255" : `≥ ${top}`;
      scaleBar.lastElementChild.textContent = `of 255 levels, gain ×${gain}`;
    }
    function setMode(mode) {
      view.mode(mode);
      modes.choose(mode);
      blinkTools.hidden = mode !== "blink";
      gainTools.hidden = mode !== "difference";
      scaleBar.hidden = mode !== "difference";
      beat();
    }

    const images = (side) => (side && side.images) || [];
    const count = () => Math.max(images(state.value.a).length, images(state.value.b).length);
    function pick(index, silent) {
      const n = count();
      if (!n) return;
      state.index = (index + n) % n;
      state.region = null;
      view.region(null);
      show();
      if (!silent) publish("pick");
    }
    let thumbed = []; // what the thumbnails show
    function thumbnails() {
      const n = count(),
        labels = state.value.labels || [];
      thumbs.hidden = n < 2;
      const sources = Array.from({ length: n }, (_, i) => images(state.value.b)[i] || images(state.value.a)[i]);
      const shown = [...sources, ...labels.slice(0, n)];
      if (shown.length !== thumbed.length || shown.some((one, i) => one !== thumbed[i])) {
        thumbed = shown;
        thumbs.replaceChildren(
          ...sources.map((src, i) =>
            el(
              "button",
              {
                type: "button",
                role: "option",
                title: labels[i] || `Picture ${i + 1}`,
                "aria-label": labels[i] || `Picture ${i + 1}`,
                onclick: () => pick(i),
              },
              el("img", { src, alt: "", draggable: "false" }),
            ),
          ),
        );
      }
      [...thumbs.children].forEach((thumb, i) => thumb.setAttribute("aria-selected", String(i === state.index)));
    }
    function show() {
      const { a, b, labels } = state.value,
        n = count();
      state.index = Math.min(state.index, Math.max(0, n - 1));
      captionA.show(n ? a : null);
      captionB.show(n ? b : null);
      const name = (labels || [])[state.index] || "";
      label.textContent = n > 1 ? `${state.index + 1}/${n}  ${name}` : name;
      label.title = name;
      empty.hidden = n > 0;
      empty.textContent = state.value.progress
        ? "The first pictures are on their way."
        : state.value.empty || "No pictures yet. Change a block, or press Generate.";
      error.hidden = !state.value.error;
      error.textContent = state.value.error || "";
      bar.show(state.value.progress);
      metrics.show(state.value.metrics);
      body.classList.toggle("stale", Boolean(state.value.progress && n) || Boolean(state.value.stale));
      thumbnails();
      view
        .load(images(a)[state.index], images(b)[state.index], {
          a: `${(a && a.caption) || "A"}: ${name}`,
          b: `${(b && b.caption) || "B"}: ${name}`,
        })
        .then(() => {
          if (!readout.dataset.on) readout.textContent = resting();
          host.dataset.shown = String(Number(host.dataset.shown || 0) + 1);
        });
    }
    // A value may be partial: what it does not name stays as it is.
    function take(value) {
      if (!value) return;
      state.value = { ...state.value, ...value };
      if (Number.isInteger(value.index)) state.index = value.index;
      if ("region" in value) {
        state.region = value.region;
        view.region(value.region && value.region.index === state.index ? value.region : null);
      }
      show();
      host.dataset.rev = String(value.rev ?? "");
    }

    view.stage.addEventListener("keydown", (event) => {
      const mode = MODES[Number(event.key) - 1];
      if (mode && !event.ctrlKey) setMode(mode[0]);
      else if (event.key === " " && view.view.mode === "blink") playIcon.click();
      else if (event.key === "Escape" && view.view.region) {
        view.region(null);
        publish("region", { region: null });
      } else if (event.key === "+" || event.key === "=") view.zoomBy(1.5);
      else if (event.key === "-") view.zoomBy(1 / 1.5);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const visible = () => host.isConnected && host.getClientRects().length > 0 && count() > 0;
    QS.onKey("b", () => {
      if (!visible()) return false;
      view.hold(true);
      return true;
    });
    QS.onKeyUp("b", () => view.hold(false));
    window.addEventListener("blur", () => view.hold(false)); // let go in another window
    QS.onKey("[", () => visible() && count() > 1 && (pick(state.index - 1), true));
    QS.onKey("]", () => visible() && count() > 1 && (pick(state.index + 1), true));

    QS.paneShow = (name, value) => {
      if (name === key) take(value);
    };
    watch("value", () => take(props.value));
    setMode("slider");
    scale();
    take(props.value);
    show();
    host.qs = { view, state, pick, setMode };
    host.dataset.ready = "1";
  };
})();
