/** The settings, read anew each time: a change holds from the next keystroke on. */

import * as vscode from "vscode";

export interface Settings {
  enable: boolean;
  serverUrl: string;
  debounceMs: number;
  budgetMs: number;
  recentFiles: boolean;
  disabledLanguages: string[];
}

/** The defaults stand in package.json. */
export function settings(): Settings {
  const section = vscode.workspace.getConfiguration("codelm");
  return {
    enable: section.get("enable", true),
    serverUrl: section.get("serverUrl", ""),
    debounceMs: section.get("debounceMs", 0),
    budgetMs: section.get("budgetMs", 0),
    recentFiles: section.get("recentFiles", true),
    disabledLanguages: section.get("disabledLanguages", []),
  };
}

/** Turns `codelm.enable` over where it is set: in the workspace if it speaks there, else for the user. */
export async function toggle(): Promise<void> {
  const section = vscode.workspace.getConfiguration("codelm");
  const workspace = section.inspect("enable")?.workspaceValue !== undefined;
  await section.update("enable", !settings().enable, !workspace);
}
