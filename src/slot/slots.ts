/** What the rest of iotdm uses of this folder. */
export { checkSlotClearable, checkSlotWritable, type Leave } from './guard.ts';
export {
  checkKey,
  checkSlotKeyClearable,
  checkSlotKeyWritable,
  checkSlotUriClearable,
  checkSlotUriWritable,
  checkUri,
  clearSlotKey,
  clearSlotUri,
  readSlotUri,
  writeSlotKey,
  writeSlotUri,
  type SlotKeyCleared,
  type SlotKeyWritten,
  type SlotUri,
  type SlotUriCleared,
  type SlotUriWritten,
} from './halves.ts';
export { mayBringKey } from './interrupted.ts';
export { encodedName, slotDeviceId } from './logical-device-id.ts';
export { listSlotNames, slotNames, type SlotNames } from './names.ts';
export { isSlotKey } from './proof.ts';
export { nameOf as keyNameOf, type ChangeKind } from './record.ts';
export type { RecoveryStore } from './recovery.ts';
export type { SlotAccess, SlotKey, SlotTpm, WrappedKey } from './slot-tpm.ts';
export { checkRepair, repairSlot, type RepairOutcome, type SlotRepaired } from './repair.ts';
export { slotSign, slotToken, type SlotToken } from './use.ts';
export { listSlots, showSlot, type SlotState, type SlotView } from './view.ts';
export { clearSlot, writeSlot, writeWrappedSlot, type SlotWritten } from './write.ts';
