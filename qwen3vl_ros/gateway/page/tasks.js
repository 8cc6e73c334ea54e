// The ready-made tasks in people's words, and questions to begin with.

const GROUPS = {
  Describe: {
    caption: "Describe the image",
    describe_spatial: "Describe where things are",
    vqa: "Answer a question on its own",
  },
  Decide: {
    yes_no: "Yes or no",
    count: "Count",
    classify: "Choose a label",
    compare: "Compare two images",
    read_gauge: "Read a gauge",
  },
  Find: {
    locate: "Find: what fits a description",
    detect: "Find: several kinds of things",
    point: "Find: a point on something",
    locate_3d: "Find: boxes in space",
    find_anomaly: "Find: what is wrong",
    gui_elements: "Find: controls on a screen",
  },
  "Read text": {
    ocr: "Read text: all of it",
    ocr_fields: "Read text: named fields",
    parse_document: "Read text: a page with its layout",
    translate_sign: "Read text: translate a sign",
  },
  "Over time": {
    what_happened: "What happened",
    when: "When something happened",
    before_after: "Before and after",
    count_events: "Count what happened",
    track: "Follow a thing",
    where_last: "Where something was last",
  },
  Make: {
    steps_to: "Plan steps",
    image_to_html: "Make a web page",
    image_to_drawio: "Make a diagram (draw.io)",
  },
};
const OWN = "Your own tasks";

// A question to begin with is {task, text, words}: `words` name it where the text alone would not. Each is only offered
// to a model that can do its task.
const FOR_ANY_IMAGE = [
  { task: "", text: "What do you see?" },
  { task: "ocr", text: "", words: "Read the text" },
  { task: "locate", text: "everything that can be picked up", words: "Find what can be picked up" },
  { task: "find_anomaly", text: "", words: "Find what is wrong" },
];
const FOR_THE_DEMONSTRATION = [
  { task: "", text: "How many objects are there?" },
  { task: "", text: "What colour is the ball?" },
  { task: "locate", text: "box", words: "Find the boxes" },
  { task: "yes_no", text: "Is there a cylinder?" },
];

/** The tasks of Server.tasks as [group, [{name, words, ...}, ...]], groups and names in a fixed order. */
export function inGroups(tasks) {
  const known = Object.entries(GROUPS).map(([group, names]) => [
    group,
    Object.keys(names).flatMap((name) => tasks.filter((task) => task.name === name)),
  ]);
  const own = tasks.filter(({ name }) => !Object.values(GROUPS).some((names) => name in names));
  return [...known, [OWN, own]].filter(([, members]) => members.length);
}

/** A task's name for people. */
export function taskInWords(name) {
  return Object.values(GROUPS).find((names) => name in names)?.[name] ?? name.replaceAll("_", " ");
}

/** Whether a model with this card (docs/gateway.md, /api/status) can do a task. */
export const knows = (card, task) => !card.tasks.length || card.tasks.includes(task);

/** Questions to begin with, for a model with this card, about an image with these things in it, if any are known. */
export function examples(card, tasks, labels) {
  const general = card.demonstration ? FOR_THE_DEMONSTRATION : FOR_ANY_IMAGE;
  const about = labels.slice(0, 2).map((label) => ({ task: "", text: `What colour is the ${label}?` }));
  const offered = ({ task }) => !task || (knows(card, task) && tasks.some(({ name }) => name === task));
  return [...about, ...general].filter(offered).slice(0, 4);
}
