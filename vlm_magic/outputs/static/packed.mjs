// A page's code and style, deflated: a third of what each new panel would send. They unpack themselves.
const PACKED = "";
const STYLE_ID = "vlm-panel-style";

const bytes = Uint8Array.from(atob(PACKED), (c) => c.charCodeAt(0));
const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
const { code, style } = await new Response(inflated).json();
const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
const page = (await import(address)).default;
URL.revokeObjectURL(address);

/** The page has our style once, where the panel stands: in the document, or in a part of it that is shut off. */
function dress(host) {
  const root = host.getRootNode();
  const home = root instanceof ShadowRoot ? root : document.head;
  const known = home.querySelector(`#${STYLE_ID}`);
  const sheet = known ?? home.appendChild(Object.assign(document.createElement("style"), { id: STYLE_ID }));
  if (sheet.textContent !== style) sheet.textContent = style; // of another release, before the page was loaded again
}

function render(context) {
  dress(context.el);
  return page.render(context);
}

export default { ...page, render };
