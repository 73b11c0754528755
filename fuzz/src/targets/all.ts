/** Every target, in the order in which they run and are listed. */
import type { Target } from '../target.ts';
import { cborTarget } from './cbor.ts';
import { envelopeTarget } from './envelope.ts';
import { cryptographicDeviceTarget } from './cryptographic-device.ts';
import { configTarget, programmeTarget, tariffTarget } from './files.ts';
import { authorityHttpTarget, serverHttpTarget } from './http.ts';
import { framesTarget, rpcTarget } from './frames.ts';
import { indiciumTarget, pieceRecordTarget } from './indicium.ts';
import { mailingTarget, stagingTarget } from './mailing.ts';
import { psdTarget } from './psd.ts';
import { interfacesTarget, messagesTarget } from './schemas.ts';
import { hostApiTarget, textsTarget } from './texts.ts';
import { authenticTarget, chainTarget, trustBundleTarget } from './trust.ts';

export const TARGETS: readonly Target[] = [
  cborTarget,
  envelopeTarget,
  messagesTarget,
  interfacesTarget,
  framesTarget,
  rpcTarget,
  indiciumTarget,
  pieceRecordTarget,
  trustBundleTarget,
  authenticTarget,
  chainTarget,
  tariffTarget,
  programmeTarget,
  configTarget,
  textsTarget,
  hostApiTarget,
  mailingTarget,
  stagingTarget,
  psdTarget,
  cryptographicDeviceTarget,
  serverHttpTarget,
  authorityHttpTarget,
];
